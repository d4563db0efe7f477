"""Mutated files against every reader: each must be read, or refused with an error that says why.

Small files of every format that is read (`fuzz_targets.py`: the benchmarks' formats, saved models, checkpoints of
unfinished runs, caches, recipes, and pickles that want to run something) are mutated: bits and bytes, lengths and
sizes, pieces cut, doubled, moved, numbers made huge. Every one is read in a worker process whose address space may grow
by 1 GiB and no more. What counts as a finding: any exception but ValueError and OSError (with their kinds, such as
DataError), MemoryError, the interpreter's death, more than 20 seconds of the processor for one file, a subprocess, a
connection, a pickle's import, or a file written outside the folder that is read.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tools.results_file import keep

from .fuzz_targets import TARGETS, files_in

ROOM = 1 << 30
SECONDS = 20
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """One to six random changes."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        size = len(data)
        # Half of the changes go into the head, where formats say what follows.
        at = draw.randrange(min(size, 512) if draw.random() < 0.5 else size) if size else 0
        width = draw.choice((1, 2, 4, 8, 16, 64))
        match draw.randrange(9):
            case 0 if size:
                data[at] ^= 1 << draw.randrange(8)
            case 1 if size:
                data[at] = draw.choice((0, 1, 0x2E, 0x7F, 0x80, 0xFF))
            case 2:
                data[at : at + 4] = draw.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)).to_bytes(4, "little")
            case 3:
                data[at : at + 8] = draw.choice((0, 2**31, 2**40, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
            case 4:
                del data[at : at + width]
            case 5:
                data[at:at] = data[at : at + width]
            case 6:
                data[at:at] = draw.randbytes(width)
            case 7:
                place = next((i for i in range(at, min(size, at + 200)) if 48 <= data[i] < 58), None)
                if place is not None:
                    data[place : place + 1] = draw.choice(
                        (b"999999999999", b"-1", b"1e999", b"NaN", b"null", b"[[", b"")
                    )
            case _:
                if draw.random() < 0.3:
                    del data[at:]
    return bytes(data)


def run(name: str, first: int, last: int, seed: int, say: Callable[[tuple], None]) -> None:
    """Read the mutated inputs number `first` to `last` of a target; say (number, outcome, detail) of each."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    target, state = TARGETS[name], {"on": False, "seen": None}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        os.environ["ALIGNMAMBA2_DATA"] = scratch
        os.chdir(scratch)
        whole, folder = Path(scratch) / "whole", Path(scratch) / "read"
        whole.mkdir()
        torch.manual_seed(0)
        target.make(whole)
        shutil.copytree(whole, folder)
        if name != "pickle-that-runs":
            target.read(folder)  # whole, it is read; and what is imported late is imported

        def watch(event: str, arguments: tuple) -> None:
            if not state["on"]:
                return
            if event in FORBIDDEN:
                state["seen"] = f"{event} {arguments!r}"[:200]
            elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
                path = os.path.realpath(os.fsdecode(arguments[0])) if isinstance(arguments[0], (str, bytes)) else ""
                if path and not path.startswith((os.path.realpath(scratch), tempfile.gettempdir(), "/dev/")):
                    state["seen"] = f"wrote {path}"

        sys.addaudithook(watch)
        size = (
            next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if "VmSize" in x) * 1024
        )
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, _late)
        sources = files_in(whole)
        for number in range(first, last):
            draw = random.Random(f"{seed} {name} {number}")
            source = draw.choice(sources)
            path = folder / source.relative_to(whole)
            path.write_bytes(mutated(source.read_bytes(), draw))
            say((number, "began", ""))
            state.update(on=True, seen=None)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: others may want it, too
            signal.alarm(30 * SECONDS)
            try:
                target.read(folder)
                outcome = ("read", "")
            except (ValueError, OSError) as error:
                outcome = ("refused", "") if str(error).strip() else ("found", f"{type(error).__name__} without a word")
            except _Late:
                outcome = ("found", f"more than {SECONDS} s")
            except BaseException as error:
                outcome = ("found", f"{type(error).__name__}: {error}"[:200])
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            state["on"] = False
            if state["seen"]:
                outcome = ("found", state["seen"])
            if Path("executed").exists() or (folder / "executed").exists():
                outcome = ("found", "the file's command was run")
            shutil.copyfile(source, path)
            say((number, *outcome))


class _Late(BaseException):
    pass


def _late(*_: object) -> None:
    raise _Late


def fuzz(name: str, inputs: int, seed: int = 0) -> dict[str, Any]:
    """How many inputs were read and refused, and what was found; a dead worker is a finding, and is replaced."""
    counts: Counter[str] = Counter()
    findings: dict[str, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")
    done, started = 0, time.perf_counter()
    while done < inputs:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(name, done, inputs, seed, theirs))
        worker.start()
        theirs.close()
        current, began = done, False
        try:
            while True:
                number, outcome, detail = ours.recv()
                current, began = number, outcome == "began"
                if not began:
                    done = number + 1
                    counts[outcome] += 1
                    if outcome == "found":
                        findings.setdefault(detail, {"first": number, "times": 0})["times"] += 1
        except EOFError:
            worker.join()
        if done < inputs:
            if not began:
                raise ValueError(f"fuzz {name}: the worker ended before its first input, status {worker.exitcode}")
            counts["found"] += 1
            findings.setdefault(f"the interpreter died, status {worker.exitcode}", {"first": current, "times": 0})[
                "times"
            ] += 1
            done = current + 1
    seconds = round(time.perf_counter() - started, 1)
    tally = {k: counts[k] for k in ("read", "refused", "found")}
    return {"inputs": inputs, **tally, "what": findings, "seconds": seconds}


def _work(name: str, first: int, last: int, seed: int, pipe) -> None:
    faulthandler.disable()
    run(name, first, last, seed, pipe.send)


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stress fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if left out")
    parser.add_argument("--inputs", type=int, default=100_000, help="in all (default: 100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/fuzz.json"))
    arguments = parser.parse_args(argv)
    chosen = arguments.targets or list(TARGETS)
    for name in chosen:
        if name not in TARGETS:
            raise ValueError(f"target: found {name!r}; expected one of {', '.join(TARGETS)}")
    whole = sum(TARGETS[name].share for name in chosen)
    print(f"{'':18s}{'inputs':>9s}{'read':>9s}{'refused':>9s}{'found':>9s}{'seconds':>9s}")
    words = " ".join(["python -m tests.stress fuzz", *argv])
    bad = {}
    for name in chosen:
        each = math.ceil(arguments.inputs * TARGETS[name].share / whole)
        r = fuzz(name, each, arguments.seed)
        bad |= {name: r["what"]} if r["found"] else {}
        print(f"{name:18s}{each:9d}{r['read']:9d}{r['refused']:9d}{r['found']:9d}{r['seconds']:9.0f}", flush=True)
        for what, where in r["what"].items():
            print(f"    {where['times']} × {what} (first: input {where['first']})", flush=True)
        keep(arguments.results, {name: r}, words)
    print(f"written: {arguments.results}")
    if bad:
        raise ValueError(f"findings: {json.dumps(bad)[:2000]}")
