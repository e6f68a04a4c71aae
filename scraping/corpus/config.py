"""What a configuration says about a corpus. Without the libraries that make one, so that it is read at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from scraping.extraction.config import AnyPageExtractor, Extractor, RecordsExtractor
from textmill.settings import added, execution_only


class ExtractionLimits(BaseModel, extra="forbid"):
    """What one page may cost; a page that exceeds a limit is dropped with that reason."""

    page_bytes: int = Field(10_000_000, gt=0, description="Largest page in bytes")
    cpu_seconds: float = Field(20, ge=1, description="CPU seconds for one page")
    memory_bytes: int = Field(2 << 30, ge=1 << 28, description="Memory of an extraction process in bytes")


class TemplateConfig(BaseModel, extra="forbid"):
    """Removal of the text that a site repeats on its pages."""

    enabled: bool = Field(True, description="Remove menus, notices and footers that recur over a site's pages")
    share: float = Field(
        0.3, gt=0, le=1, description="On what share of a site's pages a block near the top is template"
    )
    min_pages: int = Field(10, ge=2, description="On how many pages a template must occur besides")


class LengthRules(BaseModel, extra="forbid"):
    enabled: bool = Field(True, description="Drop documents that are too short or too long")
    min_characters: int = Field(
        200,
        ge=0,
        description="Fewest characters; half as many suffice for sentences; Chinese, Japanese, Korean count twice",
    )
    max_characters: int = Field(2_000_000, gt=0, description="Most characters")


class LanguageRules(BaseModel, extra="forbid"):
    keep: list[str] = Field([], description="ISO 639-1 codes of the languages to keep, as in [en, es]; empty keeps all")
    min_score: float = Field(
        0.2, ge=0, le=1, description="Below this confidence a document counts as none of the languages"
    )

    @field_validator("keep")
    @classmethod
    def _codes(cls, codes: list[str]) -> list[str]:
        for code in codes:
            if not re.fullmatch("[a-z]{2,3}", code):
                raise ValueError(f"{code!r} is not a language code: write two or three small letters such as 'en'")
        return codes


class RepetitionRules(BaseModel, extra="forbid"):
    enabled: bool = Field(True, description="Drop documents that repeat themselves")
    max_duplicate_lines: float = Field(
        0.75, ge=0, le=1, description="Share of characters in lines that occurred before"
    )
    max_duplicate_runs: float = Field(
        0.82, ge=0, le=1, description="Share of words in runs of ten words that occurred before"
    )
    max_top_ngram: float = Field(
        0.55, ge=0, le=1, description="Share of words taken up by the most frequent run of two, three or four words"
    )
    max_top_word: float = Field(
        0.3, ge=0, le=1, description="Share of the words of four letters or more that are one and the same"
    )


class SymbolRules(BaseModel, extra="forbid"):
    enabled: bool = Field(True, description="Drop documents that are not made of words")
    max_replacement_characters: float = Field(
        0.01, ge=0, le=1, description="Share of characters that a failed decoding left: U+FFFD, or bytes misread"
    )
    min_alphabetic_words: float = Field(0.05, ge=0, le=1, description="Share of words that are not numbers")
    max_mixed_words: float = Field(0.4, ge=0, le=1, description="Share of words that mix letters and digits")
    max_mean_word: float = Field(35, gt=0, description="Largest mean length of the runs without white space")
    max_single_letters: float = Field(0.6, ge=0, le=1, description="Share of words of one letter")
    max_addresses: float = Field(0.5, ge=0, le=1, description="Share of characters in web addresses")


class ProseRules(BaseModel, extra="forbid"):
    enabled: bool = Field(True, description="Drop documents whose words say nothing: menus, notices, keyword lists")
    min_function_words: float = Field(
        0.08, ge=0, le=1, description="Share of words such as 'the', where sentences lack too"
    )
    min_sentences: int = Field(3, ge=0, description="Sentences, where such words lack")
    max_hashtags: float = Field(0.3, ge=0, le=1, description="Share of words that are hashtags")
    max_ellipsis_lines: float = Field(
        0.5, ge=0, le=1, description="Share of characters in lines that end with an ellipsis"
    )
    max_notices: float = Field(0.5, ge=0, le=1, description="Share of characters in notices: of cookies, missing pages")
    max_placeholder_text: float = Field(0.05, ge=0, le=1, description="Share of words of 'lorem ipsum'")


class FilterConfig(BaseModel, extra="forbid"):
    """Rules a document must pass; they are tried in this order, and the first that fails is the reason."""

    length: LengthRules = LengthRules()
    symbols: SymbolRules = SymbolRules()
    prose: ProseRules = ProseRules()
    repetition: RepetitionRules = RepetitionRules()
    language: LanguageRules = LanguageRules()


class DedupConfig(BaseModel, extra="forbid"):
    """Which documents count as duplicates of another."""

    exact: bool = Field(True, description="Drop documents with the same text as another")
    near: bool = Field(True, description="Drop documents that resemble another")
    threshold: float = Field(
        0.8, gt=0.3, le=1, description="Jaccard similarity of 5-word runs from which on two documents count as the same"
    )


PersonalData = Literal["email", "phone", "ip"]


class DecontaminationConfig(BaseModel, extra="forbid"):
    """Which texts models are tested on, so that no document may hold a part of one."""

    paths: list[str] = execution_only(
        [], description="Files, folders or globs of these texts: .txt, .jsonl or .parquet; empty: nothing is looked for"
    )
    fields: list[str] = Field([], description="Keys or columns that hold the texts; empty: every string of a record")
    ngram: int = Field(
        13, ge=5, description="So many words in a row that a document and a text have in common are part of it"
    )


class PrepareConfig(BaseModel, extra="forbid"):
    """How pages and documents become a corpus."""

    extractor: AnyPageExtractor | None = added(
        None, description="Read the pages of all sites so, but for those that hold records; null: as each source says"
    )
    limits: ExtractionLimits = ExtractionLimits()
    template: TemplateConfig = TemplateConfig()
    filters: FilterConfig = FilterConfig()
    dedup: DedupConfig = DedupConfig()
    decontaminate: DecontaminationConfig = DecontaminationConfig()
    redact: list[PersonalData] = Field(
        [], description="Personal data to replace by placeholders: email, phone, ip; empty: none"
    )
    validation_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the documents set aside for validation")
    workers: int = execution_only(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Child processes that extract and filter"
    )

    def reading(self, own: Mapping[str, Extractor]) -> dict[str, Extractor]:
        """How the pages of each site are read.

        Args:
            own: what each source says, by its name.
        """
        chosen = self.extractor
        return {
            name: said if chosen is None or isinstance(said, RecordsExtractor) else chosen for name, said in own.items()
        }
