//! Ctrl-C, termination and the file size limit.

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Starts the thread that waits for SIGINT and SIGTERM: it removes temporary files and ends the process with 130 or
/// 143. Outputs appear under their names only when whole, so ending at any moment loses nothing but the unfinished
/// case. SIGXFSZ is only caught: the write that hit the limit then fails with an error that names the file.
pub fn install() {
    // Without the handler the process still ends on the signal; only hidden temporaries on file systems
    // without unnamed files could stay.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGXFSZ]) else {
        return;
    };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal != SIGXFSZ {
                medseg::io::atomic::remove_temporaries();
                // Without exit handlers: those of a GPU's driver would run while other threads still use it.
                signal_hook::low_level::exit(128 + signal);
            }
        }
    });
}
