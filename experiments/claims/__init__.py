"""The claims of the report, one module each: `textmill experiment run NAME`.

tokenizers/  byte pair encoding: what it costs, and how large a vocabulary should be
networks/    blocks, heads, depth; recurrent networks, KANs and an encoder-decoder beside a GPT
training/    optimizers, layers that join late, how loss falls with compute
objectives/  next and hidden tokens, one after the other or both; what embeddings hold
"""
