"""The bytes that each token of a Hugging Face tokenizer stands for, as they stand in a text: a token may hold a part of
a character, which decoding it alone would lose."""

import re

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _shown_bytes() -> dict:
    """Byte-level vocabularies write printable Latin-1 as it is, and all other bytes as the characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _rule(tokenizer):
    """From a token as the vocabulary writes it to its bytes; None where only decoding tells."""
    decoder = str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    if "ByteLevel" in decoder:
        shown = _shown_bytes()
        return lambda token: bytes(shown[character] for character in token)
    if "ByteFallback" in decoder or "\u2581" in decoder:

        def with_spaces(token):
            byte = _BYTE.fullmatch(token)
            return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()

        return with_spaces
    return None


def token_texts(tokenizer, vocabulary: int) -> list:
    """Of the token ids 0 to `vocabulary` - 1; empty for ids that the tokenizer does not have."""
    rule, added = _rule(tokenizer), tokenizer.added_tokens_decoder
    texts = []
    for token_id, token in enumerate(tokenizer.convert_ids_to_tokens(range(min(vocabulary, len(tokenizer))))):
        if token is None:
            texts.append(b"")
        elif token_id in added:  # as it is written
            texts.append(str(added[token_id]).encode())
        else:
            texts.append(tokenizer.decode([token_id]).encode() if rule is None else rule(token))
    return texts
