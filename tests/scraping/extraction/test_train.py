"""The trainer: whole numbers instead of LightGBM's, a lexicon that speaks for words, and a model from a few pages."""

from __future__ import annotations

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scraping.extraction.blocks.features import BUCKETS
from scraping.extraction.train import Trainer, make_lexicon, page_f1, read_pages, to_forest


def test_whole_trees_predict_what_lightgbm_predicts():
    generator = np.random.default_rng(0)
    features = generator.integers(-300, 1000, (2_000, 6)).astype(np.int16)
    shares = 1 / (1 + np.exp(-(features[:, 0] + np.abs(features[:, 3]) - 500) / 100))
    data = lightgbm.Dataset(features, shares)
    booster = lightgbm.train(
        {"objective": "cross_entropy", "num_leaves": 15, "verbose": -1, "num_threads": 1}, data, 30
    )
    forest = to_forest(booster.dump_model(), np.arange(6, dtype=np.int32))
    assert np.abs(forest.score(features) / 1000 - booster.predict(features)).max() < 0.01


def test_words_of_right_blocks_speak_for_a_block():
    counts = np.zeros((2, 3, BUCKETS))
    counts[:, :, 1], counts[:, :, 2], counts[:, :, 3] = (10, 9, 5), (10, 1, 5), (10, 9, 1)
    for scores in make_lexicon(counts):
        assert scores[1] > 0 > scores[2]
        assert scores[3] == 0  # on too few pages


def test_a_model_is_learned_from_pages(tmp_path):
    rows = []
    for number in range(40):
        words = [f"word{(number * 7 + place) % 90}" for place in range(25)]
        texts = [" ".join(words[start:] + words[:start]) + "." for start in (0, 8, 16)]
        menu = "".join(f"<li><a href=/{name}>{name}</a></li>" for name in ("home", "shop", "jobs", "press"))
        html = f"<ul class=menu>{menu}</ul><main>{''.join(f'<p>{text}</p>' for text in texts)}</main><p>Imprint</p>"
        row = {"html": html.encode(), "url": f"http://host{number}.example/", "page_type": "article"}
        rows.append({**row, "main_content": "\n".join(texts)})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pages.parquet")
    pages = read_pages(tmp_path / "pages.parquet")
    asked = [number for number, page in enumerate(pages) if page.fold == 0]
    learned = Trainer(pages).train([1, 2, 3, 4], asked)
    assert asked and all(page_f1(pages[number], learned.second[number]) > 0.95 for number in asked)
    again = Trainer(pages).train([1, 2, 3, 4], asked)
    assert all((learned.second[number] == again.second[number]).all() for number in asked)
