//! What fragments are written from: the slots of a stripe or of a part of it, one's own or lent.

use farside_codec::stripe::StripeLayout;
use farside_io::pool::{Buffer, Slice};
use std::ops::Range;

/// The memory that slots are written from.
pub(super) enum Memory {
    /// Header areas are filled in place, and a fragment is one write.
    Own(Buffer),
    /// Others read it meanwhile, so header areas are written apart.
    Lent(Slice),
}

/// Which fragments are written, and so which slots the memory holds.
#[derive(Clone, Copy)]
pub(super) enum SlotsOf<'a> {
    /// All of the stripe.
    Stripe,
    /// These, whose slots lie one after the other.
    Part(&'a [u8]),
    /// These, from the slots of the whole stripe, which is lent.
    Lent(&'a [u8]),
}

/// Where slots lie in the memory that they are written from.
#[derive(Clone, Copy)]
pub(super) struct Slots<'a> {
    pub(super) stripe: StripeLayout,
    pub(super) of: SlotsOf<'a>,
}

impl Slots<'_> {
    /// The bytes of the memory that are one write to a fragment's place, behind a header area that was written apart.
    pub(super) fn slot(&self, fragment: usize) -> Range<usize> {
        let before = |named: &[u8]| named.iter().take_while(|named| usize::from(**named) != fragment).count();
        match self.of {
            SlotsOf::Stripe => self.stripe.slot(fragment),
            SlotsOf::Part(named) => self.stripe.slot(before(named)),
            SlotsOf::Lent(_) => self.stripe.fragment(fragment),
        }
    }

    /// The fragments that are named one by one.
    pub(super) fn named(&self) -> &[u8] {
        match self.of {
            SlotsOf::Stripe => &[],
            SlotsOf::Part(named) | SlotsOf::Lent(named) => named,
        }
    }

    /// Whether a fragment is to be here when all is written.
    pub(super) fn belongs(&self, fragment: usize) -> bool {
        let whole = matches!(self.of, SlotsOf::Stripe);
        whole || self.named().iter().any(|named| usize::from(*named) == fragment)
    }
}
