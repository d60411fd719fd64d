from .controls import random_profiles as random_profiles
from .expectation import Expectation as Expectation
from .expectation import expect as expect
from .foresee import ForeseenStudy as ForeseenStudy
from .foresee import foresee_study as foresee_study
from .run import run_study as run_study
from .settings import StudySettings as StudySettings
