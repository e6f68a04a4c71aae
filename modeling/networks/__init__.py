"""The models, in torch alone: no word about devices to choose, precision, parallelism, or files.

Read in this order:

    language_model  what every network is to the rest
    transformer     the GPT, from its parts to its loss; a legend of the shapes
    recurrent       cells that carry a state from token to token, in place of attention
    functional      norm, activation and attention in the form that trains fastest
    encoder_decoder an encoder that reads a source, and a decoder that writes a target
    kan             learned functions in place of the feed-forward: splines, Gaussians, rationals
    loss_head       from hidden states to the loss, without all logits at once
    mixed           a GPT whose batches have windows to continue and windows with blanks
    sentence_pairs  a masked model that also says whether one sentence follows another
    span            a model that points at the answer to a question
"""
