"""A real site, extracted as whole pages: its template goes, its own sentences and one of each duplicate stay.

`campus_labels.json` is a sample of 50 pages read by hand: for the BLAKE2b-64 of a page's cleaned text, the ranges of
words that are the page's own. Breadcrumbs, menus of the site and of its sections, and footers are not.
"""

from __future__ import annotations

import hashlib
import json
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from scraping.collections.config import IngestConfig
from scraping.collections.documents import document_id
from scraping.collections.ingest import ingest
from scraping.corpus.boilerplate import Sampler, TemplateLearner, remove_template
from scraping.corpus.config import DedupConfig, PrepareConfig, TemplateConfig
from scraping.corpus.dedup import SignatureColumns, find_duplicates, save_signatures, sign
from scraping.corpus.hashing import hash_ngrams, hash_words
from scraping.corpus.prepare import CorpusInputs, prepare
from scraping.extraction.normalize import normalize
from scraping.shards import read_rows, shards

CORPUS = Path(__file__).parents[3].parent / "shared" / "data" / "umb_site_text.parquet"
LABELS = Path(__file__).with_name("campus_labels.json")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.exists(), reason="the campus corpus is not here"),
]


@pytest.fixture(scope="module")
def pages():
    return [normalize(text) for text in pq.read_table(CORPUS, columns=["text"])["text"].to_pylist()]


def template_share(texts, run=10, share=0.05):
    """Share of characters in runs of words that are found on more than 5 % of the texts; another run length than the
    code under test uses, so that this is a measurement and not a repetition of it."""
    split = [hash_words(text) for text in texts]
    per_page = [np.unique(hash_ngrams(page.hashes, run)) for page in split]
    hashes, counts = np.unique(np.concatenate(per_page), return_counts=True)
    template = hashes[counts > share * len(texts)]
    total = covered = 0
    for page in split:
        hits = np.flatnonzero(np.isin(hash_ngrams(page.hashes, run), template))
        inside = np.zeros(len(page.hashes), bool)
        inside[(hits[:, None] + np.arange(run)).ravel()] = True
        lengths = page.ends - page.starts + 1
        total += lengths.sum()
        covered += lengths[inside].sum()
    return covered / total


def test_hand_checked_pages_keep_their_own_words(pages):
    sampler = Sampler()
    for text in pages:
        sampler.add(document_id(text.encode()), text)
    learner = TemplateLearner()
    for text in sampler.places():
        learner.add(text)
    defaults = TemplateConfig()
    template = learner.template(defaults.share, defaults.min_pages)
    by_hash = {hashlib.blake2b(text.encode(), digest_size=8).hexdigest(): text for text in pages}
    own = kept = both = 0
    for page, ranges in json.loads(LABELS.read_text()).items():
        before = by_hash[page].split()
        is_own, is_kept = np.zeros(len(before), bool), np.zeros(len(before), bool)
        for start, end in ranges:
            is_own[start:end] = True
        after = remove_template(by_hash[page], template).split()
        for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
            is_kept[block.a : block.a + block.size] = True
        own, kept, both = own + is_own.sum(), kept + is_kept.sum(), both + (is_own & is_kept).sum()
    precision, recall = both / kept, both / own
    print(f"words kept: precision {precision:.3f}, recall {recall:.3f}")
    assert recall > 0.995
    assert precision > 0.92  # what is left too much are the menus of single sections


def test_the_corpus_has_no_template_and_no_duplicates(pages, tmp_path):
    def nothing(*_, **__):
        pass

    ingest(IngestConfig(path=str(CORPUS), name="campus"), tmp_path / "documents", nothing)
    inputs = CorpusInputs(documents=[tmp_path / "documents"])
    prepare(inputs, PrepareConfig(workers=2), tmp_path / "corpus")
    corpus = [row["text"] for split in ("train", "validation") for row in read_rows(shards(tmp_path / "corpus", split))]
    figures = json.loads((tmp_path / "corpus/stats.json").read_text())
    before, after = template_share(pages), template_share(corpus)
    print(f"template characters: {before:.1%} → {after:.2%}; {figures['dropped']}")
    assert 0.40 < before < 0.43
    assert after < 0.01
    assert figures["candidates"] == len(pages) == figures["documents"] + sum(figures["dropped"].values())
    assert len(set(corpus)) == len(corpus)
    config = DedupConfig()
    signatures = sign([document_id(text.encode()) for text in corpus], corpus, config)
    save_signatures(tmp_path / "signatures.npz", signatures)
    known = SignatureColumns([tmp_path / "signatures.npz"], tmp_path / "signatures")
    assert not len(find_duplicates(known, lambda places: (corpus[place] for place in places), config, tmp_path))
