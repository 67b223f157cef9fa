//! What the kernel side has to say about itself: in debug builds alone, and only where user space asked for it (-vv).

/// `diagnose!(ctx, "format", numbers…)`. Nothing at all without the feature `log`, which a release build does not have.
macro_rules! diagnose {
    ($ctx:expr, $($text:tt)*) => {
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!($ctx, $($text)*);
    };
}
pub(crate) use diagnose;
