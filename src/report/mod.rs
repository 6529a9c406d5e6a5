//! Reports that people read, from results documents of [`crate::evaluate`].
//!
//! 1. [`source`] takes one or several results documents that belong together and refuses others.
//! 2. [`worst`] chooses the cases worth looking at; [`picture`] draws them.
//! 3. [`workbook`], [`html`] and [`markdown`] show the same numbers: none is computed twice.
//!
//! Nothing here reads files or the clock: the same documents and pictures give the same bytes. A score
//! without a number is shown as `n/a`, never as 0. Text from outside (names of cases and labels) is
//! only ever text: no formula, no markup.

pub mod html;
mod language;
pub mod markdown;
mod numbers;
pub mod picture;
pub mod source;
pub mod workbook;
pub mod worst;

pub use language::Language;

/// What a report is made of.
pub struct Report<'a> {
    /// The evaluations, checked by [`source::check`].
    pub models: &'a [source::Model],
    /// Cases to look at, worst first, with their pictures.
    pub worst: &'a [worst::Shown],
    /// Language of headings.
    pub language: Language,
    /// Dice below this is marked.
    pub flag_below: f64,
}
