//! The kernels' text: what it is made from, and what each kernel takes.

use super::error::Error;
use std::collections::BTreeMap;
use std::ffi::CStr;

/// `kernels.ptx`, which `make_ptx.sh` makes from `kernels.cu`.
const TEXT: &str = concat!(include_str!("kernels.ptx"), "\0");

/// The same for the driver.
pub(super) fn text() -> Result<&'static CStr, Error> {
    let text = CStr::from_bytes_with_nul(TEXT.as_bytes());
    text.map_err(|error| Error::Refused(error.to_string()))
}

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An address.
    Address,
    /// A number of 32 bits, signed or not.
    Count,
    /// A 32-bit float.
    Single,
    /// A 64-bit float.
    Double,
}

/// The parameters of every kernel that `text` declares, by name. What is of another type than those of [`Kind`] is left
/// out, and shows as a wrong count.
pub(super) fn parameters(text: &str) -> BTreeMap<String, Vec<Kind>> {
    let mut kernels = BTreeMap::new();
    for declaration in text.split(".visible .entry ").skip(1) {
        let Some((name, rest)) = declaration.split_once('(') else {
            continue;
        };
        let list = rest.split_once(')').map_or("", |(list, _)| list);
        let kinds = list.split(',').filter_map(|parameter| {
            let mut words = parameter
                .split_whitespace()
                .skip_while(|word| *word != ".param");
            match words.nth(1)? {
                ".u64" | ".b64" => Some(Kind::Address),
                ".u32" | ".s32" | ".b32" => Some(Kind::Count),
                ".f32" => Some(Kind::Single),
                ".f64" => Some(Kind::Double),
                _ => None,
            }
        });
        kernels.insert(name.trim().to_owned(), kinds.collect());
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_text_belongs_to_the_source() {
        let source = include_bytes!("kernels.cu");
        let hash: String = Sha256::digest(source)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let head = TEXT.lines().next().unwrap();
        assert!(
            head.contains(&hash),
            "kernels.cu changed: run src/nn/cuda/make_ptx.sh"
        );
    }

    #[test]
    fn every_kernel_is_there_for_every_type_of_numbers() {
        let kernels = parameters(TEXT);
        assert_eq!(kernels.len(), 3 + 3 * 6 + 2 * 2);
        for name in [
            "gather",
            "moments",
            "normalise",
            "biased",
            "average",
            "head",
        ] {
            let single = &kernels[&format!("{name}_f32")];
            for numbers in ["f16", "bf16"] {
                assert_eq!(&kernels[&format!("{name}_{numbers}")], single);
            }
        }
        use Kind::{Address, Count, Double, Single};
        assert_eq!(kernels["fold"], [Address, Address, Count, Count]);
        assert_eq!(kernels["factors"][9], Double);
        assert_eq!(kernels["normalise_f16"][2], Single);
        assert_eq!(kernels["head_f32"].len(), 16);
        assert_eq!(kernels["weigh_f16"], kernels["weigh_f32"]);
    }

    #[test]
    fn the_text_is_for_every_generation_since_turing() {
        assert!(TEXT.contains(".target sm_75"));
        assert!(TEXT.contains(".version 6.3"));
    }
}
