"""Token files of other trainers, read and written: nanoGPT, llm.c and modded-nanogpt, Megatron-LM.

- `readers.py`: the formats, how a file is recognized, and what is in it.
- `importing.py`: these files to token arrays of ours.
- `exporting.py`: token arrays of ours to these files.
- `inspecting.py`: what a file or a folder holds, and what is damaged.
"""
