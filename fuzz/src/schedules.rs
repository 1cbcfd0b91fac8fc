//! The simulator, with the fuzzer's bytes in the place of chance.

use std::time::Duration;

use leasehold_simulator::{Faults, Options};

use super::input::Input;

/// Every property of the simulator holds, whatever goes wrong when. The first bytes say how much may go wrong; then two
/// bytes make one decision each, until they end and the seed decides.
pub fn schedules(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte().into();
    let mut rate = |most: u64| u64::from(input.byte()) * most / 255;
    let faults = Faults {
        slow: rate(100),
        hung: rate(60),
        eio: rate(60),
        stall: rate(40),
        upset: Duration::from_millis(rate(1_500)),
        rot: rate(2),
        bad_sector: rate(3) == 3,
        clock_ppm: rate(leasehold::CLOCK_RATE_ERROR_PPM),
        ..Faults::default()
    };
    // As with random seeds: while a host lives its bad block is in the way of all, and two with damaged blocks wait for
    // each other.
    let lone_end = input.flag() || faults.bad_sector || faults.rot > 1;
    let hosts = 2 + input.below(3);
    let options = Options {
        seed,
        hosts,
        ids: hosts as u64 + 4,
        duration: Duration::from_secs(3),
        lone_end,
        faults,
        schedule: input.bytes(usize::MAX).to_vec(),
        ..Options::of_seed(0)
    };
    if let Err(failure) = options.run() {
        panic!("\n{failure}");
    }
}
