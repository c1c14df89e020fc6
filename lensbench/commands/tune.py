"""`lensbench tune`: the hyper-parameters of every arm at every scale, with the same budget for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensbench.commands.again import to_go_on
from lensbench.commands.queue import Storage
from lensbench.commands.sweeps import CorpusFolder, Runs, SweepFile, on_corpus

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Sweep

FOREVER = 3600.0  # seconds for a worker to keep its state when it is asked to stop


def tune(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    corpus: CorpusFolder = None,
    workers: Annotated[int, typer.Option(min=0, help="Trials at a time; 0: one a GPU or core.")] = 0,
) -> None:
    """Tune what a sweep's `tuning` names, then write SWEEP.tuned.json beside the sweep, which `run` reads.

    Stop it whenever you like, and start it as often, on as many machines: each takes the next trial.
    """
    from lensbench.stopping import STOPPING, handled
    from lensbench.sweep.processes import default_workers
    from lensbench.sweep.quiet import quiet
    from lensbench.sweep.storage import address
    from lensbench.sweep.sweep import load
    from lensbench.sweep.tuned import read_tuned, tuned_file, units, write_tuned
    from lensbench.sweep.worker import check_writable

    sweep = on_corpus(load(sweep_file), sweep_file, corpus)
    if sweep.tuning is None:
        other = sweep.tuned_by and sweep_file.with_name(f"{sweep.tuned_by}.py")
        what = f"its values are tuned by {other}: tune that" if other else "give it tuning=Tuning(...)"
        raise ValueError(f"{sweep_file}: the sweep has no tuning of its own: {what}")
    path = tuned_file(sweep_file)
    if path.is_file():
        read_tuned(sweep, path)
        print(f"{path} is there and of this tuning: nothing to do")
        return
    check_writable(runs)
    check_writable(path.parent)
    quiet()
    from lensbench.sweep.tuning import Tuner

    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        with handled(STOPPING, stop):
            url = address(storage, runs)
            tuner = Tuner(sweep, runs, url, say)
            done, total = tuner.progress()
            each = f"{len(units(sweep))} arms and sizes, {sweep.tuning.trials} trials each"
            say(f"{each}: {done} of {total} trials are finished")
            processes = min(workers or default_workers(total), max(1, total - done))
            if processes == 1:
                from lensbench.sweep.worker import real_run_cell

                tuner.work(real_run_cell())
            else:
                _in_processes(sweep, runs, url, processes)
            found = tuner.findings()
    except (KeyboardInterrupt, SystemExit):
        number = received[0] if received else 15
        raise to_go_on("stopped; finished trials are kept", 128 + number) from None
    write_tuned(sweep, found, path)
    for entry in found:
        values = ", ".join(f"{d.rpartition('.')[2]}={_shown(v)}" for d, v in entry["values"].items())
        say(f"{entry['unit']}: {values} ({sweep.tuning.objective} {entry['objective']:.4f})")
    say(f"written to {path}: keep it with the sweep; lensbench run trains with these values")


def say(line: str) -> None:
    """A line, at once: several processes share the terminal."""
    print(line, flush=True)


def _in_processes(sweep: Sweep, runs: Path, url: str, workers: int) -> None:
    import multiprocessing

    from lensbench.sweep.processes import cores, gpus

    spawn = multiprocessing.get_context("spawn")
    devices, threads = gpus(), max(1, cores() // workers)
    children = []
    try:
        for lane in range(workers):
            gpu = devices[lane % len(devices)] if devices else None
            task = (sweep.model_dump(mode="json"), runs, url, threads, gpu)
            child = spawn.Process(target=_worker, args=task)
            child.start()
            children.append(child)
        for child in children:
            child.join()
        if codes := [child.exitcode for child in children if child.exitcode]:
            raise ValueError(f"{len(codes)} of {workers} workers ended early, with exit code {codes[0]}")
    finally:
        for child in children:
            if child.is_alive():
                child.terminate()
        for child in children:
            child.join(FOREVER)


def _worker(told: dict[str, Any], runs: Path, url: str, threads: int, gpu: str | None) -> None:
    """One process: takes trials until all are finished."""
    import os
    import signal

    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which asks for the end by SIGTERM

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    from lensbench.sweep.quiet import quiet
    from lensbench.sweep.sweep import Sweep
    from lensbench.sweep.tuning import Tuner
    from lensbench.sweep.worker import real_run_cell

    quiet()
    try:
        Tuner(Sweep.model_validate(told), runs, url, say).work(real_run_cell())
    except (ValueError, OSError) as error:
        say(f"a worker ends: {' '.join(str(error).split())}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(143) from None


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
