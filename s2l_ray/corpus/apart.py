"""A sample of a corpus, taken in a process of its own: a file that crashes its reader leaves the
driver alive, to say which one."""

from __future__ import annotations

import signal
import traceback
from multiprocessing import get_context
from multiprocessing.connection import Connection

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.sample import Sample, sample


def sample_apart(config: CorpusConfig, *, seed: int) -> Sample:
    """Sample a corpus, as `sample` does. ValueError that names the file if its reader dies."""
    spawn = get_context("spawn")
    answers, out = spawn.Pipe(duplex=False)
    reader = spawn.Process(target=_work, args=(config, seed, out), daemon=True)
    reader.start()
    out.close()  # the end of the reader is then the end of the answers
    found: object = "corpus.path"
    try:
        while isinstance(found, str):
            name = found
            found = answers.recv()
    except EOFError:
        reader.join()
        raise ValueError(
            f"{name}: its reader died ({_told(reader.exitcode)}): it crashed or was killed, for "
            f"example for lack of memory. If the file is damaged or too large to read, leave it out"
        ) from None
    finally:
        reader.kill()
        reader.join()
        answers.close()
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Sample)
    return found


def _told(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


def _work(config: CorpusConfig, seed: int, out: Connection) -> None:
    """Send the name of each file before it is read, then the sample or why there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends this process
    try:
        found: Sample | Exception = sample(config, seed=seed, told=out.send)
    except Exception as error:
        error.add_note(traceback.format_exc())
        found = error
    out.send(found)
