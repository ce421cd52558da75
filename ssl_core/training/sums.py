"""Checksums of files beside them, as `sha256sum --check` reads them."""

import os
import re
from pathlib import Path

from ssl_core.files import sha256, write_atomically


class Sums:
    """The checksums of a file, and of those that belong to it, in a file beside it: `epoch_0012.sha256`."""

    def __init__(self, of: Path):
        self.of, self.file = of, of.with_suffix(".sha256")

    def name(self, file: Path) -> str:
        """How sums name a file: as it is seen from their folder."""
        return os.path.relpath(str(file), str(self.of.parent))

    def write(self, sums: dict[str, str]) -> None:
        """Checksums by name."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        write_atomically(self.file, lambda file: file.write(lines.encode()))

    def read(self) -> dict[str, str]:
        """Checksums by name.

        Raises:
            ValueError: they are not as they were written.
        """
        sums = {}
        for line in self.file.read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            if not re.fullmatch("[0-9a-f]{64}", digest) or not name:
                raise ValueError(f"a line that is no checksum: {line[:80]!r}")
            sums[name] = digest
        if self.of.name not in sums:
            raise ValueError(f"{self.of.name} is not in it")
        return sums

    def damage(self) -> str | None:
        """What is wrong with the files, or with the sums."""
        try:
            sums = self.read()
        except (ValueError, PermissionError) as error:
            return f"{self.file} is damaged ({error})"
        for name, digest in sums.items():
            file = (self.of.parent / name).resolve()
            try:
                if sha256(file) != digest:
                    return f"{file} is damaged (its checksum differs)"
            except FileNotFoundError:
                return f"{file} is missing"
            except PermissionError as error:
                return f"{file} cannot be read ({error.strerror})"
        return None
