"""Extension modules of cyrusext; everything else is in pyproject.toml.

CYREXT_DEBUG=1 builds with assertions, fail-points and no optimisation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "packaging"))
from compiled_classes import declare

DEBUG = os.environ.get("CYREXT_DEBUG") == "1"

LIBCYREXT = [
    "csrc/libcyrusext/change.c",
    "csrc/libcyrusext/changes.c",
    "csrc/libcyrusext/check_store.c",
    "csrc/libcyrusext/chunk.c",
    "csrc/libcyrusext/copy.c",
    "csrc/libcyrusext/crc.c",
    "csrc/libcyrusext/env.c",
    "csrc/libcyrusext/error.c",
    "csrc/libcyrusext/failpoint.c",
    "csrc/libcyrusext/guard.c",
    "csrc/libcyrusext/heartbeat.c",
    "csrc/libcyrusext/hot.c",
    "csrc/libcyrusext/hot_build.c",
    "csrc/libcyrusext/hot_changes.c",
    "csrc/libcyrusext/hot_verify.c",
    "csrc/libcyrusext/hot_writer.c",
    "csrc/libcyrusext/intern.c",
    "csrc/libcyrusext/key.c",
    "csrc/libcyrusext/lines.c",
    "csrc/libcyrusext/lookup.c",
    "csrc/libcyrusext/meta.c",
    "csrc/libcyrusext/namehash.c",
    "csrc/libcyrusext/pages.c",
    "csrc/libcyrusext/pinned.c",
    "csrc/libcyrusext/place.c",
    "csrc/libcyrusext/put.c",
    "csrc/libcyrusext/reader.c",
    "csrc/libcyrusext/record.c",
    "csrc/libcyrusext/rekey.c",
    "csrc/libcyrusext/salvage.c",
    "csrc/libcyrusext/scan.c",
    "csrc/libcyrusext/stat.c",
    "csrc/libcyrusext/structure.c",
    "csrc/libcyrusext/upgrade.c",
    "csrc/libcyrusext/verify.c",
    "csrc/libcyrusext/writer.c",
]

# What looks at the bytes of a store's file and opens no environment: it may be linked beside the library.
STRUCTURE = [
    f"csrc/libcyrusext/{name}.c"
    for name in ("change", "check_store", "crc", "error", "key", "pages", "record", "salvage", "structure")
]

ROUTER = [
    f"lmtp_router.{name}"
    for name in (
        "backends",
        "body",
        "bulk",
        "channel",
        "delivery",
        "journal",
        "link",
        "protocol.codec",
        "protocol.client",
        "protocol.hops",
        "protocol.server",
        "protocol.lines",
        "protocol.types",
        "recipient",
        "results",
        "routing",
        "session",
        "transaction",
        "turn",
    )
]

HEADERS = [str(header) for directory in ("include", "libcyrusext") for header in Path("csrc", directory).glob("*.h")]

CFLAGS = ["-std=gnu11", *(["-O0", "-g", "-DCYX_FAILPOINTS=1"] if DEBUG else ["-O2"])]

NEEDED = {
    "lmdb.h": ("the store", "lmdb", "liblmdb-dev"),
    "sasl/sasl.h": ("logins", "sasl2", "libsasl2-dev"),
}


def missing_headers() -> list[str]:
    """Return one sentence for each development file that the compiler does not find."""
    cc = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if cc is None:
        return ["no C compiler found (Debian: gcc)"]
    found = []
    with tempfile.TemporaryDirectory() as tmp:
        for header, (purpose, library, package) in NEEDED.items():
            source = Path(tmp) / "probe.c"
            source.write_text(
                f"#include <stddef.h>\n#include <stdio.h>\n#include <{header}>\nint main(void){{return 0;}}\n"
            )
            command = [*cc.split(), *os.environ.get("CPPFLAGS", "").split(), str(source), "-o", f"{tmp}/probe"]
            command += [*os.environ.get("LDFLAGS", "").split(), f"-l{library}"]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                found.append(f"<{header}> and lib{library}, for {purpose} (Debian: {package})")
    return found


GENERATED = "build/cython"
AS_PYTHON = {"annotation_typing": False, "nonecheck": True}
"""What is Python must behave as Python: an annotation is no promise, and None has no attributes."""


def router_modules() -> list[Extension]:
    """Python that each command and each reply goes through, compiled as it stands (docs/decisions/router-speed.md)."""
    sources = {name: Path(name.replace(".", "/") + ".py") for name in ROUTER}
    declarations = [str(path) for path in declare(sources, Path("lmtp_router").rglob("_*.pxd"))]
    return [
        Extension(name, [str(source)], depends=declarations, extra_compile_args=CFLAGS)
        for name, source in sources.items()
    ]


def extensions() -> list[Extension]:
    compiled = cythonize(router_modules(), language_level=3, compiler_directives=AS_PYTHON, build_dir=GENERATED)
    return compiled + cythonize(
        [
            Extension(
                "cyrusext.index._cyx",
                ["cyrusext/index/_cyx.pyx", *LIBCYREXT],
                include_dirs=["csrc/include", "csrc/libcyrusext"],
                depends=HEADERS,
                libraries=["lmdb"],
                extra_compile_args=CFLAGS,
                extra_link_args=["-Wl,-Bsymbolic-functions"],  # its calls go straight to the library
            ),
            Extension(
                "cyrusext.index._structure",
                ["cyrusext/index/_structure.pyx", *STRUCTURE],
                include_dirs=["csrc/include", "csrc/libcyrusext"],
                depends=HEADERS,
                libraries=["lmdb"],
                extra_compile_args=CFLAGS,
            ),
            # Not linked with the library: see cyrusext/index/_cyx.pxd.
            *(
                Extension(
                    source.removesuffix(".pyx").replace("/", "."),
                    [source],
                    include_dirs=["csrc/include", "csrc/libcyrusext"],
                    depends=HEADERS,
                    extra_compile_args=CFLAGS,
                )
                for source in (
                    "cyrusext/index/_lookup.pyx",
                    "cyrusext/index/_records.pyx",
                    "cyrusext/mupdate/_finds.pyx",
                    "cyrusext/mupdate/_sorted.pyx",
                    "cyrusext/mupdate/_walk.pyx",
                )
            ),
            Extension("cyrusext.wire._framer", ["cyrusext/wire/_framer.pyx"], extra_compile_args=CFLAGS),
            *(
                Extension(source.removesuffix(".pyx").replace("/", "."), [source], extra_compile_args=CFLAGS)
                for source in (
                    "lmtp_router/_express.pyx",
                    "lmtp_router/_intake.pyx",
                    "lmtp_router/_lines.pyx",
                    "lmtp_router/_passed.pyx",
                    "lmtp_router/protocol/_envelope.pyx",
                    "lmtp_router/protocol/_plain.pyx",
                    "lmtp_router/protocol/_scan.pyx",
                    "lmtp_router/protocol/_stuff.pyx",
                    "lmtp_router/protocol/_tuples.pyx",
                )
            ),
        ],
        language_level=3,
        build_dir=GENERATED,
    )


BUILDS = {"build_ext", "bdist_wheel", "editable_wheel", "develop", "install", "build"}

if BUILDS.intersection(sys.argv):
    absent = missing_headers()
    if absent:
        raise SystemExit("cyrusext can not be built, missing: " + "; ".join(absent))
    setup(ext_modules=extensions(), cffi_modules=["cyrusext/net/_sasl_build.py:ffi"])
else:
    setup()  # metadata and the source distribution need no compiler
