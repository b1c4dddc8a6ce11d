"""Speech and noise, real or synthetic, behind one table: the manifest.

`open_corpora()` finds what is there, `fetch(name)` downloads, `import_folder(name, folder)` takes one that you own.
"""

from sepriors.lab.corpora.fetch import FetchError, fetch, import_folder, open_corpora, registry
from sepriors.lab.corpora.manifest import (
    FIELDS,
    Corpora,
    CorpusError,
    ManifestError,
    check_disjoint,
    read_manifest,
    write_manifest,
)
from sepriors.lab.corpora.readers import READERS, ReaderError
from sepriors.lab.corpora.sets import bench_set, class_of, clusters_of, demo, recording_of, speaker_of, speech_of

__all__ = [
    "FIELDS", "READERS", "Corpora", "CorpusError", "FetchError", "ManifestError", "ReaderError", "bench_set",
    "check_disjoint", "class_of", "clusters_of", "demo", "fetch", "import_folder", "open_corpora", "read_manifest",
    "recording_of", "registry", "speaker_of", "speech_of", "write_manifest",
]  # fmt: skip
