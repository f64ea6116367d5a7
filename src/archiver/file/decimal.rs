//! Decimal numbers as PostgreSQL sends them, and as one integer.
//!
//! Source: PostgreSQL 18, `src/backend/utils/adt/numeric.c`, `numeric_send` and `make_result`:
//! digits to the base 10,000, without zeros at either end.

const POSITIVE: u16 = 0;
const NEGATIVE: u16 = 0x4000;

/// Digits to the base 10,000 of the largest number, with the point anywhere.
const GROUPS_MAX: usize = 24;

const HEADER_BYTES: usize = 8;

/// The number times 10^scale, when it is one that has at most so many digits and exactly that
/// scale, and is written the way PostgreSQL writes it.
pub(super) fn take(bytes: &[u8], precision: u8, scale: u8) -> Option<i128> {
    let (header, digits) = bytes.split_at_checked(HEADER_BYTES)?;
    let (digits, rest) = digits.as_chunks::<2>();
    let header = header.as_chunks::<2>().0;
    let weight = i32::from(i16::from_be_bytes(header[1]));
    if digits.len() > GROUPS_MAX || !rest.is_empty() {
        return None;
    }
    let mut magnitude = 0_u128;
    let mut exponent = 4 * weight + i32::from(scale);
    for digit in digits {
        let digit = u128::from(u16::from_be_bytes(*digit));
        let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
        let part = if exponent >= 0 { digit.checked_mul(power)? } else { digit / power };
        magnitude = magnitude.checked_add(part)?;
        exponent -= 4;
    }
    if magnitude >= 10_u128.pow(u32::from(precision)) {
        return None;
    }
    let number = i128::try_from(magnitude).ok()?;
    let is_negative = u16::from_be_bytes(header[2]) == NEGATIVE;
    let number = if is_negative { -number } else { number };
    // Whatever else is odd, such as NaN, another scale or zeros at an end, shows here.
    let mut again = [0; HEADER_BYTES + 2 * GROUPS_MAX];
    (encode(number, scale, &mut again) == bytes).then_some(number)
}

/// Writes the number the way PostgreSQL writes it.
pub(super) fn put(number: i128, scale: u8, out: &mut Vec<u8>) {
    let mut space = [0; HEADER_BYTES + 2 * GROUPS_MAX];
    out.extend_from_slice(encode(number, scale, &mut space));
}

fn encode(number: i128, scale: u8, space: &mut [u8; HEADER_BYTES + 2 * GROUPS_MAX]) -> &[u8] {
    // The lowest one first.
    let mut groups = [0_u16; GROUPS_MAX];
    let mut count = 0;
    let mut rest = number.unsigned_abs();
    let behind_point = usize::from(scale).div_ceil(4);
    let partial = u32::from(scale % 4);
    if partial > 0 {
        groups[0] = split_off(&mut rest, 10_u16.pow(partial)) * 10_u16.pow(4 - partial);
        count = 1;
    }
    while rest > 0 {
        groups[count] = split_off(&mut rest, 10_000);
        count += 1;
    }
    let first = groups.iter().rposition(|group| *group != 0);
    let last = groups.iter().position(|group| *group != 0);
    let (used, weight) = match (first, last) {
        (Some(first), Some(last)) => {
            // There are few of them.
            let weight = (first as u16).cast_signed() - (behind_point as u16).cast_signed();
            (&groups[last..=first], weight)
        }
        _ => (&groups[..0], 0),
    };
    let sign = if number < 0 { NEGATIVE } else { POSITIVE };
    let header = [used.len() as u16, weight.cast_unsigned(), sign, u16::from(scale)];
    let length = HEADER_BYTES + 2 * used.len();
    let words = header.iter().chain(used.iter().rev());
    for (place, word) in space.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *place = word.to_be_bytes();
    }
    &space[..length]
}

/// Takes the lowest digit to a base off. Most numbers are small, and dividing large ones is slow.
fn split_off(rest: &mut u128, base: u16) -> u16 {
    if let Ok(small) = u64::try_from(*rest) {
        *rest = u128::from(small / u64::from(base));
        (small % u64::from(base)) as u16
    } else {
        let digit = *rest % u128::from(base);
        *rest /= u128::from(base);
        digit as u16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn wire(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn numbers_look_as_postgresql_sends_them() {
        // Number of digits, weight, sign, scale, digits: as `numeric_send` gives them.
        for (number, scale, words) in [
            (0, 0, &[0, 0, 0, 0][..]),
            (0, 2, &[0, 0, 0, 2]),
            (1, 0, &[1, 0, 0, 0, 1]),
            (-1, 0, &[1, 0, 0x4000, 0, 1]),
            (1, 2, &[1, 0xffff, 0, 2, 100]),
            (12_345_678, 2, &[3, 1, 0, 2, 12, 3456, 7800]),
            (10_000, 0, &[1, 1, 0, 0, 1]),
            (1, 5, &[1, 0xfffe, 0, 5, 1000]),
            (100_000_000, 4, &[1, 1, 0, 4, 1]),
        ] {
            let mut out = Vec::new();
            put(number, scale, &mut out);
            assert_eq!(out, wire(words), "{number} {scale}");
            assert_eq!(take(&out, 38, scale), Some(number));
        }
    }

    #[test]
    fn other_ways_to_write_a_number_are_refused() {
        for words in [
            // NaN, infinity, minus infinity, minus zero.
            &[0, 0, 0xc000, 0][..],
            &[0, 0, 0xd000, 0],
            &[0, 0, 0xf000, 0],
            &[0, 0, 0x4000, 2],
            // Another scale, a zero in front, a zero behind, a digit that is none.
            &[1, 0, 0, 3, 1],
            &[2, 1, 0, 2, 0, 1],
            &[2, 0, 0, 2, 1, 0],
            &[1, 0, 0, 2, 10_000],
            // Digits behind the scale, fewer digits than said, a weight for nothing, too large.
            &[2, 0, 0, 2, 1, 1],
            &[2, 0, 0, 2, 1],
            &[0, 1, 0, 2],
            &[1, 9, 0, 2, 1],
            &[1, 0x7fff, 0, 2, 1],
            &[1, 0x8000, 0, 2, 1],
            &[],
            &[1, 0],
        ] {
            assert_eq!(take(&wire(words), 38, 2), None, "{words:?}");
        }
        assert_eq!(take(&wire(&[1, 0, 0, 0, 1000]), 4, 0), Some(1000));
        assert_eq!(take(&wire(&[1, 0, 0, 0, 1000]), 3, 0), None);
        let mut odd = wire(&[1, 0, 0, 0, 1000]);
        odd.push(0);
        assert_eq!(take(&odd, 38, 0), None);
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: i128, by in 0..127_u32, scale in 0..=38_u8) {
            let number = (number >> by) % 10_i128.pow(38);
            let mut out = Vec::new();
            put(number, scale, &mut out);
            assert_eq!(take(&out, 38, scale), Some(number));
        }

        #[test]
        fn no_bytes_are_taken_for_another_number(
            words in proptest::collection::vec(any::<u16>(), 0..8), scale in 0..=38_u8,
        ) {
            if let Some(number) = take(&wire(&words), 38, scale) {
                let mut out = Vec::new();
                put(number, scale, &mut out);
                assert_eq!(out, wire(&words));
            }
            // All that fits in an integer can be written, whatever a file says.
            put(i128::MIN + i128::from(words.len() as u64), scale, &mut Vec::new());
        }
    }

    #[test]
    fn the_largest_ones_fit() {
        let largest = 10_i128.pow(38) - 1;
        for scale in 0..=38 {
            let mut out = Vec::new();
            put(-largest, scale, &mut out);
            assert_eq!(take(&out, 38, scale).unwrap(), -largest);
        }
    }
}
