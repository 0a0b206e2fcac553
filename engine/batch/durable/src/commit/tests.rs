//! The protocol under knives: crashes at every step, drivers that race, readers that look at any moment.

mod bench;
mod crash;
mod protocol;
mod race;
mod stores;
