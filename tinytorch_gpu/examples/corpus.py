"""Text as bytes: training text, whole held-out files, batches that depend on the seed and the step alone."""

from __future__ import annotations

import gzip
import hashlib
import os
import sysconfig
import zlib
from pathlib import Path

import numpy as np

from .settings import UserError

# Tests, third-party packages, and files that are tables or copies rather than written source.
LEFT_OUT = {
    "test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "encodings", "lib2to3", "pydoc_data",
    "turtledemo", "ensurepip", "__phello__", "__pycache__",
}  # fmt: skip


def held_out(name: str) -> bool:
    """One name in twenty, the same ones on every machine."""
    return zlib.crc32(name.encode()) % 20 == 0


def read(path: Path) -> bytes:
    """The file's content. Raises UserError where the system refuses it."""
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"[data] {path} cannot be read ({why}): give readable text with --data") from None


def standard_library() -> list[tuple[str, bytes]]:
    """(top-level module, source) of the running Python's own library, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if LEFT_OUT.isdisjoint(parts) and not parts[0].startswith(("config-", "lib-", "_sysconfigdata")):
            files.append((parts[0].removesuffix(".py"), read(path)))
    if sum(len(text) for _, text in files) < 1_000_000:
        raise UserError(
            f"[data] this Python came without the sources of its standard library (looked in {root}): "
            "give text of your own with --data PATH"
        )
    return files


def user_files(path: Path) -> list[tuple[str, bytes]]:
    """(relative path, content) of a file, or of every file below a folder that is neither hidden nor binary."""
    if path.is_file():
        return [(path.name, read(path))]
    if not path.is_dir():
        raise UserError(f"[data] {path} is no file and no folder: give --data the path of a text file or a folder")
    files = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():
                text = read(file)
                if b"\0" not in text[:8192]:
                    files.append((file.relative_to(path).as_posix(), text))
    if not files:
        raise UserError(f"[data] {path} has no text files: give --data a file or a folder with text")
    return files


class Corpus:
    """Training bytes `train` and held-out bytes `held`; what is held out never depends on order or chance.

    The standard library holds out whole modules; a folder of 40 files or more holds out whole files; anything
    smaller, the last tenth of its text.
    """

    def __init__(self, data: str):
        files = user_files(Path(data)) if data else standard_library()
        train = [text for name, text in files if not held_out(name)]
        held = [text for name, text in files if held_out(name)]
        self.held_names = sorted({name for name, _ in files if held_out(name)})
        text = b"".join(text for _, text in files)
        if len(files) < 40 or not 0 < sum(map(len, held)) < len(text) // 2:
            cut = len(text) - len(text) // 10
            train, held, self.held_names = [text[:cut]], [text[cut:]], ["the last tenth of the text"]
        self.train = np.frombuffer(b"".join(train), np.uint8)
        self.held = np.frombuffer(b"".join(held), np.uint8)
        digest = hashlib.sha256(len(self.train).to_bytes(8, "little"))
        digest.update(self.train)
        digest.update(self.held)
        self.fingerprint = digest.hexdigest()
        self.where = data or "the Python standard library's source"

    def __str__(self) -> str:
        names = ", ".join(self.held_names[:8]) + (", ..." if len(self.held_names) > 8 else "")
        return f"learning {self.where}: {len(self.train):,} bytes, {len(self.held):,} held out ({names})"

    def require(self, context: int) -> None:
        """Raises UserError where the text is too short to cut windows of `context` bytes out of it."""
        if len(self.train) < context + 2 or len(self.held) < 2:
            raise UserError(
                f"[data] {self.where} has {len(self.train)} bytes to train on and {len(self.held)} held out, "
                f"--context {context} needs {context + 2} and 2: give more text with --data, or a smaller --context"
            )

    def batch(self, seed: int, step: int, batch: int, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, each int64 (batch, context), of one step: no order to save, any step can be replayed."""
        random = np.random.Generator(np.random.Philox(key=[seed, step]))
        starts = random.integers(0, len(self.train) - context, batch)
        windows = self.train[starts[:, None] + np.arange(context + 1)].astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def held_windows(self, context: int, stride: int, batch: int, limit: int | None = None):
        """Batches of (inputs, targets, counted) that score every held-out byte once.

        A window moves on by `stride` bytes and counts only what the one before has not, so that each byte but the
        first few sees at least `context - stride` bytes before it. The first byte follows a newline. `counted` is a
        float32 mask (batch, context); `limit` takes about that many bytes, evenly spaced windows of all of them.
        """
        text = np.concatenate([np.frombuffer(b"\n", np.uint8), self.held]).astype(np.int64)
        total, rows, done = len(self.held), [], 0
        while done < total:
            end = min(total, done + (stride if done else context))
            rows.append((max(0, end - context), done, end))
            done = end
        if limit is not None:
            rows = rows[:: -(-total // max(limit, stride))]
        place = np.arange(min(context, total))
        for first in range(0, len(rows), batch):
            start, done, end = np.array(rows[first : first + batch]).T[:, :, None]
            index = start + place
            yield text[index], text[index + 1], ((index >= done) & (index < end)).astype(np.float32)

    def compressed(self) -> dict[str, float]:
        """Bits per byte of the held-out text under `gzip -9` and `xz -9`, each given that text alone."""
        text = self.held.tobytes()
        sizes = {"gzip -9": len(gzip.compress(text, 9))}
        try:
            import lzma
        except ImportError:  # a Python built without liblzma
            return {name: 8 * size / len(text) for name, size in sizes.items()}
        sizes["xz -9"] = len(lzma.compress(text, preset=9))
        return {name: 8 * size / len(text) for name, size in sizes.items()}
