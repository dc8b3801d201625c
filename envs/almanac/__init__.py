"""The almanac: questions in English about a book that nobody has read, for language models."""

from envs.almanac.book import Book
from envs.almanac.task import Almanac

__all__ = ["Almanac", "Book"]
