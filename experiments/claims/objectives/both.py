"""One model for both uses: most windows are continued, and in a few hidden tokens are predicted, from the position
before them. What is compared has read the same number of tokens, and is judged on the same windows and hidden tokens.

A share of 0 is causal training, to the bit, whose model is asked for hidden tokens too.
"""

from experiments.declaration import Better, Experiment, Figure, Published, Quick, Same

EXPERIMENT = Experiment(
    claim="A model that fills blanks in one of 64 windows predicts next tokens within 0.02 nats of one that only does "
    "that, and hidden tokens better than one that only does that.",
    chapter="Causal and masked language modeling are two objectives of the same transformer.",
    variants={
        "both": {"pretrain": {"objective": "mixed", "masked_share": 1 / 64}},
        "causal": {"pretrain": {"objective": "mixed", "masked_share": 0}},
        "masked": {"pretrain": {"objective": "masked"}},
    },
    figure=Figure(name="masked_accuracy", better="higher", baseline="most_frequent_accuracy"),
    contrasts=[
        Same(same=("both", "causal"), within=0.02, figure="validation_loss"),
        Better(better="both", than="masked"),
    ],
    equal=["steps", "tokens", "parameters"],
    published=[
        Published(
            source="Charpentier & Samuel 2024, 'GPT or BERT: why not both?'",
            says="Trained on both, a model does better on the BabyLM tasks than one that was trained on either alone.",
            ours=[Better(better="both", than="masked")],
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}),
)
