from .documents import CalibrationDocument as CalibrationDocument
from .documents import load_documents as load_documents
from .evaluate import HeadEvaluator as HeadEvaluator
from .results import SearchResult as SearchResult
from .run import run_search as run_search
from .settings import SearchSettings as SearchSettings
