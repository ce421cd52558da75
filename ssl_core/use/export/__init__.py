"""A trained encoder for other programs: written down, read again by theirs, and compared before it is handed out."""

from ssl_core.use.export.exported import Exported, prepare
from ssl_core.use.export.formats import FORMATS, Format, load_format
from ssl_core.use.export.writing import Difference, Refused, check_folder, export

__all__ = ["FORMATS", "Difference", "Exported", "Format", "Refused", "check_folder", "export", "load_format", "prepare"]
