//! A process whose clock is wrong: a small library that stands between it and the system's clock.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// What is asked of the C library, answered so many seconds off as the variable says.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long off(void) {
    static long seconds, known;
    if (!known) {
        const char *text = getenv("FAULT_CLOCK_SECONDS");
        seconds = text ? atol(text) : 0;
        known = 1;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *to) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, to);
    if (clock == CLOCK_REALTIME) to->tv_sec += off();
    return result;
}

int gettimeofday(struct timeval *to, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"#;

/// The library, made once.
fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        fs::write(&source, SOURCE).expect("a file");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let made = cc.output().expect("cc, which ./test installs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        library.to_str().expect("a readable path").to_owned()
    })
}

/// The environment of a process whose clock is so many seconds ahead, or behind.
pub fn off_by(seconds: i64) -> [(&'static str, String); 2] {
    [("LD_PRELOAD", library().to_owned()), ("FAULT_CLOCK_SECONDS", seconds.to_string())]
}
