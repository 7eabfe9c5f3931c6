"""Worker: llama.cpp's own quantization of a GGUF file, as ``llama-quantize`` does it.

Needs llama-cpp-python, whose library holds the function behind that program.
"""

from __future__ import annotations

import argparse

import llama_cpp


def main() -> None:
    """Quantize one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("type", help="such as q4_k_m")
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{options.type.upper()}")
    parameters.nthread = options.threads
    parameters.allow_requantize = True
    source, output = options.source.encode(), options.output.encode()
    if llama_cpp.llama_model_quantize(source, output, parameters):
        raise SystemExit(f"llama.cpp could not quantize {options.source}")


if __name__ == "__main__":
    main()
