"""What is done with a checkpoint; nothing here knows how it was trained.

Read in this order:

    generate       load a checkpoint; continue texts, fill blanks
    targets        what an encoder-decoder writes: targets of sources, spans of blanks
    next_sentence  whether a sentence follows another
    embed          a vector for each text, to Parquet
    neighbors      which vectors are nearest to others
    evaluate       perplexity and bits per byte of a text
    harness        tasks of lm-evaluation-harness
    edges          the functions that a KAN has learned, to be drawn
    attention_maps where the heads of a transformer look, to be drawn
    export         a folder for `transformers`
    importing      a folder of `transformers` as a checkpoint
    remote_code    the model's wrapper that an export takes along
"""
