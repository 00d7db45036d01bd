"""Weak public keys in a key set are not used."""

from __future__ import annotations

import random

import pytest
from forging import b64

from clerk_m2m.verification.signature import usable_keys

# Moduli of the ROCA kind (CVE-2017-15361) are powers of 65537 modulo each of these.
PRIMES = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157]


def is_used(modulus: int) -> bool:
    """Return True if a key with this modulus is used."""
    n = b64(modulus.to_bytes(-(-modulus.bit_length() // 8), "big"))
    return bool(usable_keys({"keys": [{"kty": "RSA", "kid": "k", "e": "AQAB", "n": n}]}))


def modulus(residues: dict[int, int], chance: random.Random, bits: int = 2048) -> int:
    """Return an odd number of `bits` bits that has these residues modulo these primes."""
    number, product = 1, 2
    for prime, residue in residues.items():
        number += product * ((residue - number) * pow(product, -1, prime) % prime)
        product *= prime
    lowest = -(-(3 << (bits - 2)) // product)
    return number + product * chance.randrange(lowest, (1 << bits) // product - 1)


def powers(prime: int) -> list[int]:
    return sorted({pow(65537, exponent, prime) for exponent in range(prime)})


def test_a_modulus_that_is_a_power_of_65537_modulo_every_prime_is_refused() -> None:
    chance = random.Random(1)

    for _ in range(30):
        assert not is_used(modulus({p: chance.choice(powers(p)) for p in PRIMES}, chance))


@pytest.mark.parametrize("prime", PRIMES)
def test_a_modulus_that_is_no_power_modulo_one_of_the_primes_is_used(prime: int) -> None:
    chance = random.Random(prime)
    others = [each for each in range(1, prime) if each not in powers(prime)]

    for _ in range(10):
        residues = {p: chance.choice(powers(p)) for p in PRIMES}
        assert is_used(modulus(residues | {prime: chance.choice(others)}, chance))


@pytest.mark.parametrize(
    ("bits", "used"), [(2047, False), (2048, True), (8192, True), (8193, False)]
)
def test_a_modulus_has_from_2048_to_8192_bits(bits: int, used: bool) -> None:
    chance = random.Random(bits)
    other = next(each for each in range(1, 11) if each not in powers(11))

    assert is_used(modulus({11: other}, chance, bits)) is used
