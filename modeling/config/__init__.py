"""What a training run is made of; imports no torch, as the command line needs it fast.

A run is written as `{preset: nano, steps: 300, model: {layers: 6}}` or with one dial, `{depth: 6}`. Whatever the preset
or the dial decides is filled in when the configuration is read, so that a validated configuration names every value;
explicit keys win.

Read in this order:

    section       a part of a configuration, which knows all its keys
    network       the kinds of networks: transformer, recurrent, encoder-decoder; the kinds of feed-forward
    optimization  optimizers, their rates, and how these change over the steps
    objective     what is predicted: masked tokens, hidden spans, several tokens at once
    presets       settings by name
    run           what pretraining and fine-tuning have in common
    pretrain      a pretraining, or the weights of others in its place
    finetune      tunings of a checkpoint
"""
