//! What Linux knows of this process, by the names that exporters of every kind give it, so that dashboards made for
//! others fit. Where it can't be read, it is left out.

use std::fmt;

use procfs::process::{LimitValue, Process as Proc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::out::Out;

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let Ok(process) = Proc::myself() else { return Ok(()) };
        let mut out = Out(encoder);
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            let help = "Processor time of this process, user and system, in seconds";
            out.counter("process_cpu_seconds", help, (stat.utime + stat.stime) as f64 / ticks)?;
            let help = "Memory that this process has in use, in bytes";
            out.gauge("process_resident_memory_bytes", help, (stat.rss * procfs::page_size()) as f64)?;
            out.gauge("process_virtual_memory_bytes", "Its address space, in bytes", stat.vsize as f64)?;
            out.gauge("process_threads", "Its threads", stat.num_threads as f64)?;
            if let Ok(booted) = procfs::boot_time_secs() {
                let help = "When it began, in seconds since 1970";
                out.gauge("process_start_time_seconds", help, booted as f64 + stat.starttime as f64 / ticks)?;
            }
        }
        if let Ok(open) = process.fd_count() {
            out.gauge("process_open_fds", "Its open descriptors", open as f64)?;
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            out.gauge("process_max_fds", "The most descriptors that it may have open", most as f64)?;
        }
        Ok(())
    }
}
