"""`benchmarks/gpu.sh`: its tables, its parts, and that it needs neither lm-eval nor a network."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from gpu_tables import everything_is_right, markdown
from repository import ROOT
from timing import Ratio

BENCHMARKS = ROOT / "benchmarks"
TINY = "--shapes tiny --lengths 8,16 --dtype float32 --repetitions 1"


def kernel_row(dtype, dim, case, **values):
    numbers = {
        "kernels": "triton_kernels",
        "means_error": 1e-7,
        "output_error": 2e-5,
        "output_tolerance": 1e-4,
        "sinks_differ": 0,
    }
    return {"dtype": dtype, "dim": dim, "case": case, "right": True, **numbers, **values}


def forward_row(n, part, **ratios):
    names = {"eager": 3.0, "act 0%": 1.0, "act 30%": 1.04, "act 100%": 1.2}
    values = {name: ratios.get(name, value) for name, value in names.items()}
    return {
        "shape": "a-layer",
        "dtype": "bfloat16",
        "part": part,
        "n": n,
        "sinks_per_head": 3.25,
        "sdpa_seconds": 0.0123,
        "sdpa_bytes": 2**20,
        "ratios": {name: asdict(Ratio(value, value - 0.1, value + 0.1)) for name, value in values.items() if value},
        "calibration": {"act 30%": 0.011, "act 100%": 0.1},
        "extra_bytes": {name: 3 * 2**20 for name, value in values.items() if value},
    }


def result(**rows):
    parts = [{"part": kind, "kind": kind, "state": "done", "seconds": 12.0, "rows": rows[kind]} for kind in rows]
    return {
        "machine": {"device": "NVIDIA Nothing", "torch": "2.13.0"},
        "command": "benchmarks/gpu.sh",
        "seconds": 31.4,
        "budget_seconds": 450,
        "parts": parts,
    }


@pytest.mark.tier("unit")
def test_table_of_kernels():
    rows = [
        kernel_row("bfloat16", 128, "padding"),
        kernel_row("bfloat16", 128, "soft cap", means_error=3e-7),
        kernel_row("bfloat16", 128, "window", kernels="blockwise", output_error=5e-5),
        kernel_row("float32", 64, "padding", right=False, sinks_differ=2, output_error=0.5),
        {"dtype": "float32", "dim": 64, "case": "window", "right": False, "error": "CompilationError: a | b\nand so on"},
    ]
    table = markdown(result(kernels=rows)).splitlines()
    assert "| bfloat16 | 128 | 3 of 3 | 3.0e-07 | 2.0e-05 | 1.0e-07 | 5.0e-05 | 1.0e-04 |" in table
    assert "| float32 | 64 | 0 of 2 | 1.0e-07 | 5.0e-01 |  |  | 1.0e-04 |" in table
    assert "| float32, 64, padding | 2 sinks differ, means 1.0e-07, outputs 5.0e-01 |" in table
    assert r"| float32, 64, window | CompilationError: a \| b and so on |" in table
    assert not everything_is_right(result(kernels=rows))
    assert everything_is_right(result(kernels=rows[:3]))


@pytest.mark.tier("unit")
def test_table_of_forward_passes():
    left_out = {"eager_left_out": "needs about 380 GiB, 70 GiB are free"}
    rows = [forward_row(2048, "attention layer"), forward_row(2048, "forward")]
    rows.append({**forward_row(32768, "forward", eager=None), **left_out})
    text = markdown(result(forward=rows))
    assert (
        "| a-layer | forward | 2048 | 12.30 | 3.00 (2.90-3.10) | 1.00 (0.90-1.10) | 1.04 (0.94-1.14) | 1.20 (1.10-1.30) "
        "| 1.1% | 10.0% | +3 | +3 | +3 | +3 | 3.2 |" in text
    )
    assert "| a-layer | forward | 32768 | 12.30 |  | 1.00 (0.90-1.10) |" in text
    assert "Left out: eager at n = 32768: needs about 380 GiB, 70 GiB are free." in text
    assert text[text.index("| target") :].splitlines() == [
        "| target: forward | n | system | measured | at most | met |",
        "|---|---|---|---|---|---|",
        "| a-layer | 2048 | act 30% | 1.04 | 1.05 | yes |",
        "| a-layer | 2048 | act 100% | 1.20 | 1.15 | no |",
        "| a-layer | 32768 | act 100% | 1.20 | 1.35 | yes |",
    ]


@pytest.mark.tier("unit")
def test_table_of_evaluations():
    ratios = {"act-hf, 0% of heads": asdict(Ratio(0.5, 0.4, 0.6))}
    row = {"rows": "hellaswag", "floor": 0.481, "ratios": ratios, "sinks_per_head": 2.0, "hf_seconds": 1.234}
    assert "| hellaswag | 0.48 | 0.50 (0.40-0.60) | 2.0 | 1.23 |" in markdown(result(**{"end to end": [row]})).splitlines()


@pytest.mark.tier("unit")
def test_table_of_whole_models():
    row = {"model": "tiny", "calls": {"triton_kernels": 60, "blockwise": 2}, "error": 1e-3, "tolerance": 5e-5, "right": False}
    given = result(**{"whole models": [row]})
    assert markdown(given).splitlines()[-1] == "| tiny | NO | 1.0e-03 | 5.0e-05 | triton_kernels 60, blockwise 2 |"
    assert not everything_is_right(given)


@pytest.mark.tier("unit")
def test_table_of_block_sizes():
    launch = {"work": "statistics", "dtype": "bfloat16", "dim": 128, "n": 4096, "step": 64, "warps": 4, "stages": 3}
    slow = {**launch, "block": 32, "own_seconds": 0.002, "seconds": 0.003, "difference": 1e-8}
    fast, failed = {**slow, "block": 64, "seconds": 0.0015}, {**launch, "block": 128, "error": "OutOfResources: shared memory"}
    assert markdown(result(**{"block sizes": [failed, slow, fast]})).splitlines()[-3:] == [
        "| statistics | bfloat16 | 128 | 4096 | 64 | 64 | 4 | 3 | 1.50 | 2.00 | 1.0e-08 |",
        "| statistics | bfloat16 | 128 | 4096 | 32 | 64 | 4 | 3 | 3.00 | 2.00 | 1.0e-08 |",
        "| statistics | bfloat16 | 128 | 4096 | 128 | 64 | 4 | 3 | OutOfResources: shared memory |  |  |",
    ]


@pytest.mark.tier("unit")
def test_what_has_no_rows_has_no_table():
    skipped = {
        "part": "end to end",
        "kind": "end to end",
        "state": "skipped",
        "why": "lm_eval cannot be imported",
        "seconds": 0,
    }
    text = markdown({**result(), "parts": [{**skipped, "rows": []}]})
    assert "31 s of 450 s." in text
    assert text.endswith("| end to end | skipped: lm_eval cannot be imported |\n")


@pytest.fixture
def without_lm_eval(tmp_path):
    """Variables of an environment that has torch, triton and transformers, and little else."""
    absent = ("lm_eval", "datasets", "pandas", "scipy", "matplotlib", "typer", "rich", "pytest", "hypothesis")
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in absent)]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    stand_ins = BENCHMARKS / "stand_ins"
    path = os.pathsep.join(map(str, (tmp_path, stand_ins, ROOT)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "ACT_EVAL_NO_STARTUP_HOOK": "1"}


def run(command, environment):
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def rows_of(program, options, environment, tmp_path):
    """The rows that a part of the benchmark writes on the CPU."""
    output = tmp_path / "rows"
    command = [sys.executable, BENCHMARKS / program, "--device", "cpu", *options.split(), "--output", output]
    ended = run(command, environment)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.tier("process")
def test_forward_passes_without_lm_eval(without_lm_eval, tmp_path):
    rows = rows_of("device_forward.py", TINY.replace("--shapes", "--shape"), without_lm_eval, tmp_path)
    assert [(row["part"], row["n"]) for row in rows] == [(part, n) for n in (8, 16) for part in ("attention layer", "forward")]
    assert set(rows[0]["ratios"]) == {"sdpa", "eager", "act 0%", "act 30%", "act 100%"}
    assert "tiny" in markdown(result(forward=rows))


@pytest.mark.tier("process")
def test_whole_models_without_lm_eval(without_lm_eval, tmp_path):
    rows = rows_of("whole_models.py", "", without_lm_eval, tmp_path)
    assert len(rows) == 2
    assert all(row["right"] and row["error"] > 0 and row["calls"]["whole_maps"] > 50 for row in rows), rows


@pytest.mark.tier("slow")
def test_kernels_without_lm_eval(without_lm_eval, tmp_path):
    """In processes of their own, of which one fails as a whole."""
    pytest.importorskip("triton")
    options = "--dtypes float32 --dims 16,0 --most-tokens 12 --processes 2"
    rows = rows_of("kernel_checks.py", options, {**without_lm_eval, "TRITON_INTERPRET": "1"}, tmp_path)
    assert len({row["case"] for row in rows}) >= 9
    assert all(row["right"] for row in rows if row["dim"] == 16), rows
    assert not any(row["right"] for row in rows if row["dim"] == 0)


@pytest.mark.tier("slow")
def test_block_sizes_change_nothing_but_the_last_bits(without_lm_eval, tmp_path):
    pytest.importorskip("triton")
    options = "--dtype float32 --n 70 --heads 2 --key-heads 1 --dim 16 --repetitions 1 --launches 3"
    rows = rows_of("device_block_sizes.py", options, {**without_lm_eval, "TRITON_INTERPRET": "1"}, tmp_path)
    assert {row["block"] for row in rows} == {64, 128}
    assert {row["work"] for row in rows} == {"statistics", "calibrated", "calibrated over all keys"}
    assert all(row["difference"] <= 2e-6 for row in rows), rows


@pytest.mark.tier("process")
def test_in_one_command_everything_is_skipped_where_there_is_no_time(without_lm_eval, tmp_path):
    command = [BENCHMARKS / "gpu.sh", "--device", "cpu", "--seconds", "5", *shlex.split(TINY), "--output", tmp_path / "all"]
    ended = run(command, without_lm_eval)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "kernels: skipped: it needs 30 s, and 5 s are left"
    saved = json.loads((tmp_path / "all.json").read_text())
    assert [(part["kind"], part["state"]) for part in saved["parts"]] == [
        ("kernels", "skipped"),
        ("whole models", "skipped"),
        ("forward", "skipped"),
        ("end to end", "skipped"),
        ("block sizes", "skipped"),
    ]
    assert saved["parts"][3]["why"] == "lm_eval, typer cannot be imported"
    assert (tmp_path / "all.md").read_text() == markdown(saved)


@pytest.mark.tier("process")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_one_sentence_says_so(without_lm_eval):
    ended = run([BENCHMARKS / "gpu.sh"], without_lm_eval)
    assert (ended.returncode, ended.stderr) == (
        2,
        "there is no CUDA device here: run this where there is one, or give --device cpu.\n",
    )
