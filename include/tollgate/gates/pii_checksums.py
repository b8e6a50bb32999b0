"""Check digits of Korean numbers. A number that fails may still be real: some numbers given lately carry none."""

from __future__ import annotations

import datetime as dt

_RESIDENT_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_BUSINESS_WEIGHTS = (1, 3, 7, 1, 3, 7, 1, 3, 5)


def is_birthday(six_digits: str, century: str) -> bool:
    """Whether YYMMDD is a date in the century that the seventh digit of a resident number stands for."""
    year = {"9": 1800, "0": 1800, "3": 2000, "4": 2000, "7": 2000, "8": 2000}.get(century, 1900) + int(six_digits[:2])
    return is_date(year, int(six_digits[2:4]), int(six_digits[4:]))


def is_date(year: int, month: int, day: int) -> bool:
    """Whether there is such a day."""
    try:
        dt.date(year, month, day)
    except ValueError:
        return False
    return True


def resident(digits: str) -> bool:
    """Whether the 13th digit fits a resident number: weights 2-9, 2-5, modulo 11.

    Numbers given since October 2020 carry no check digit.
    """
    return _weighed(digits, 11)


def foreigner(digits: str) -> bool:
    """Whether the 13th digit fits a foreigner registration number: as a resident number's, plus 2."""
    return _weighed(digits, 13)


def corporate(digits: str) -> bool:
    """Whether the 13th digit fits a corporate registration number: weights 1 and 2 in turn, modulo 10."""
    total = sum(int(digit) * (1 + place % 2) for place, digit in enumerate(digits[:12]))
    return -total % 10 == int(digits[12])


def business(digits: str) -> bool:
    """Whether the 10th digit fits a business registration number: weights 1 3 7 1 3 7 1 3 5 and a carry, modulo 10."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, _BUSINESS_WEIGHTS, strict=False))
    total += int(digits[8]) * 5 // 10
    return -total % 10 == int(digits[9])


def luhn(number: str) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1) over the digits of a number."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _weighed(digits: str, base: int) -> bool:
    total = sum(int(digit) * weight for digit, weight in zip(digits, _RESIDENT_WEIGHTS, strict=False))
    return (base - total % 11) % 10 == int(digits[12])
