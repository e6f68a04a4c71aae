"""Language models: their architecture, how they are trained, and what is done with them.

Read in this order:

    config/     what a run is made of, and the presets; imports no torch, as the command line needs it fast
    scaling     one dial, the depth, from which a run's other settings follow
    mixture     how much of a run is from each source
    masking     which tokens of a window are hidden from a masked model
    spans       which spans of a window are hidden from an encoder-decoder
    networks/   the models, in torch alone
    device      where and in which precision to compute
    cost        what a run needs and takes, on paper
    checkpoint  the folder that holds a model
    regression  KANs and MLPs on formulas
    training/   from token arrays to a checkpoint
    inference/  from a checkpoint to text, metrics, and other programs' formats
    answering/  questions and answers: sets of them, tuning a checkpoint on one, and its answers
"""
