//! Curve operations, which a simulator may have remembered: see `kept`.

#[cfg(feature = "recall")]
mod kept;

#[cfg(feature = "recall")]
pub use kept::begin;
#[cfg(feature = "recall")]
pub(crate) use kept::{dh, signature, verified};
#[cfg(not(feature = "recall"))]
pub(crate) use plain::{dh, signature, verified};

/// Nothing is remembered.
#[cfg(not(feature = "recall"))]
mod plain {
    use alloc::boxed::Box;
    use snow::types::Dh;

    pub(crate) fn signature(
        _: impl FnOnce() -> [u8; 32],
        _: &[u8],
        compute: impl FnOnce() -> [u8; 64],
    ) -> [u8; 64] {
        compute()
    }

    pub(crate) fn verified(_: [u8; 32], _: &[u8], _: &[u8; 64], compute: impl FnOnce() -> bool) -> bool {
        compute()
    }

    pub(crate) fn dh(inner: Box<dyn Dh>, _: fn() -> Option<Box<dyn Dh>>) -> Box<dyn Dh> {
        inner
    }
}
