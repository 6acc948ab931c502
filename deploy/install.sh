#!/bin/sh
# Install the libraries of the image: exactly the wheels of a locked list, without files that the service never opens.
# Usage, while the image is built: install.sh REQUIREMENTS
set -eu

pip="/pip/bin/pip --python /opt/percept/bin/python"
$pip install --no-compile --require-hashes --only-binary=:all: --requirement "$1"
# Before Percept is installed: it requires onnxruntime-gpu, and pip would report the plain onnxruntime as missing it.
$pip check

# The tests of the libraries, and the second copy of ONNX Runtime, which is for programs in C.
find /opt/percept -type d -name tests -prune -exec rm -r {} +
find /opt/percept -name 'libonnxruntime.so*' -delete

# The root file system is read-only at run time, so compile now, independent of file times.
python3 -m compileall -q --invalidation-mode unchecked-hash /opt/percept
