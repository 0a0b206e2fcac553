//! A job on a driver and workers: plans cut into stages, stages into tasks, tasks given to workers over their control
//! streams, shuffles between workers over Arrow Flight.

mod broadcast;
mod clients;
mod codec;
mod compact;
mod data_port;
mod driver;
mod gather;
mod guard;
mod metadata;
mod reads;
mod repeatable;
mod restrict;
mod scan_parts;
mod scan_settings;
mod settings;
mod stages;
mod task;
mod unsent;
mod waves;
mod worker;
mod worker_facts;

pub use broadcast::BroadcastJoins;
pub use data_port::DataPort;
pub use driver::{ClusterEngine, ClusterInputs, ClusterOptions, cluster_settings};
pub use gather::GatheredJoins;
pub use stages::PlannedStage;
pub use unsent::check_sent;
pub use waves::suitable_tasks;
pub use worker::{Ended, Worker, WorkerError};
