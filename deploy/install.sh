#!/bin/sh
# What the image's environment has besides Percept: exactly the wheels of a locked list, without what serving never opens.
# Usage, while the image is built: install.sh REQUIREMENTS
set -eu

pip="/pip/bin/pip --python /opt/percept/bin/python"
$pip install --no-compile --require-hashes --only-binary=:all: --requirement "$1"
# Percept itself comes later: for it a plain onnxruntime would not do for the onnxruntime-gpu that it asks for.
$pip check

# The wheels' own tests; and ONNX Runtime a second time, as the library for programs in C.
find /opt/percept -type d -name tests -prune -exec rm -r {} +
find /opt/percept -name 'libonnxruntime.so*' -delete

# The root will be read-only, so Python's compiled files come along; their validity hangs on no file time.
python3 -m compileall -q --invalidation-mode unchecked-hash /opt/percept
