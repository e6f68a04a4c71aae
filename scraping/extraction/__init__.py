"""From the bytes of a page to its text. Read in this order:

config      which extractor a source has: the declaration alone
sniff       whether a body is a page at all
charset     bytes to characters
blocks      a page as blocks of text: cut, chosen by a model or a rule, laid out as text or Markdown
extract     the page's own text, by one of four extractors
train       makes the model that `auto` asks
normalize   the normal form of a text
sandbox     child processes in which hostile pages may do all this
"""
