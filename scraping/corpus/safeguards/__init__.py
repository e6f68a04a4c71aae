"""What a corpus must not hold, where a configuration says so: personal data, and texts that models are tested on.

redact        e-mail addresses, phone numbers and IP addresses, behind placeholders
evaluation    the texts that models are tested on, read from files
decontaminate drops documents that hold a part of one
held_out      text that several corpora can be judged by, because none of them would train on it
"""
