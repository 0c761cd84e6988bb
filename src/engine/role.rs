//! What a process is there for.

/// What a process does of a buffer in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Role {
    /// Take claims, and write to the database.
    #[default]
    All,
    /// Take claims.
    Gate,
    /// Write to the database.
    Worker,
}

impl Role {
    /// Whether it takes claims.
    pub fn is_gate(self) -> bool {
        self != Self::Worker
    }

    /// Whether it writes to the database.
    pub fn is_worker(self) -> bool {
        self != Self::Gate
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "gate and worker",
            Self::Gate => "a gate",
            Self::Worker => "a worker",
        }
    }
}
