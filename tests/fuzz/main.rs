//! The fuzz targets without a fuzzer: every input that is kept in `fuzz/corpus`, every seed, and some thousands of their
//! mutations, the same in every run. `fuzz/run` looks for new inputs, for as long as one likes.

mod mutate;
mod seeds;
mod targets;

use std::path::{Path, PathBuf};

use targets::{INPUT_MAX, Target};

/// Where the mutations begin; an input that fails is printed whole.
const SEED: u64 = 0x5eed_f0eb_a700_0001;
/// Mutated inputs a target.
const MUTATIONS: usize = 4_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The inputs in a folder, by their names.
fn kept(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let say = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut inputs = Vec::new();
    for entry in folder.read_dir().map_err(say)? {
        let entry = entry.map_err(say)?;
        let bytes = std::fs::read(entry.path()).map_err(say)?;
        inputs.push((entry.file_name().to_string_lossy().into_owned(), bytes));
    }
    inputs.sort();
    if inputs.is_empty() { Err(format!("{} holds no input", folder.display())) } else { Ok(inputs) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Runs one input; what to do about it where it fails.
fn one(name: &str, target: Target, from: &str, input: &[u8]) -> Result<(), String> {
    std::panic::catch_unwind(|| target(input)).map_err(|_| {
        format!(
            "target {name} fails on {from}. The input is\n{}\nKeep it: printf '{}' >fuzz/corpus/{name}/WHAT-BROKE",
            hex(input),
            input.iter().map(|b| format!("\\x{b:02x}")).collect::<String>()
        )
    })
}

/// Runs every input of `inputs`, then `mutations` mutations of them in turn.
fn replay(name: &str, target: Target, inputs: &[(String, Vec<u8>)], mutations: usize) -> Result<(), String> {
    for (file, input) in inputs {
        one(name, target, file, input)?;
    }
    let mut random = mutate::Random(SEED);
    for (turn, (file, input)) in (0..mutations).zip(inputs.iter().cycle()) {
        let other = &inputs[random.below(inputs.len())].1;
        let mutated = mutate::mutated(&mut random, input, other);
        one(name, target, &format!("mutation {turn} (seed {SEED:#x}) of {file}"), &mutated)?;
    }
    Ok(())
}

fn check(name: &str) {
    let (_, target) = targets::ALL.into_iter().find(|(n, _)| *n == name).expect("a target");
    let mut inputs = kept(&corpus().join(name)).unwrap_or_else(|e| panic!("{e}"));
    inputs.extend(seeds::of(name).into_iter().map(|(n, bytes)| (format!("seed {n}"), bytes)));
    replay(name, target, &inputs, MUTATIONS).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn entries_are_read_as_what_they_say_or_refused() {
    check("codec");
}

#[test]
fn configurations_are_sound_or_complained_about() {
    check("config");
}

#[test]
fn of_a_damaged_journal_the_beginning_is_read_or_nothing() {
    check("journal");
}

#[test]
fn a_receipt_holds_for_its_claim_alone() {
    check("receipt");
}

#[test]
fn bodies_are_taken_where_they_are_what_the_contract_describes() {
    check("request");
}

#[test]
fn images_are_books_or_refused() {
    check("snapshot");
}

#[test]
fn paths_queries_and_headers_are_read_by_the_contracts_words() {
    check("target");
}

/// Reaches four bytes that only a reader who is led there finds.
fn planted(input: &[u8]) {
    assert!(!input.starts_with(b"boom"), "planted");
}

#[test]
fn an_input_that_fails_is_named_and_printed() {
    let good = ("good".to_owned(), b"boon".to_vec());
    let bad = ("bad".to_owned(), b"boom!".to_vec());
    assert_eq!(replay("planted", planted, &[good], 0), Ok(()));
    let told = replay("planted", planted, &[bad], 0).unwrap_err();
    assert!(told.contains("on bad") && told.contains("626f6f6d21"), "{told}");
}

#[test]
fn a_mutation_that_fails_is_named_by_its_seed() {
    // One letter away, so that the mutations come upon it.
    let close = ("close".to_owned(), b"boo".to_vec());
    let closer = ("closer".to_owned(), b"m".to_vec());
    let told = replay("planted", planted, &[close, closer], 100_000).unwrap_err();
    assert!(told.contains("mutation") && told.contains("0x5eed"), "{told}");
}

#[test]
fn a_corpus_without_inputs_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    assert!(kept(folder.path()).unwrap_err().contains("holds no input"));
    assert!(kept(&folder.path().join("missing")).is_err());
}

#[test]
fn every_target_has_its_corpus_and_its_fuzzer_and_every_corpus_its_target() {
    let mut names: Vec<_> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    let folder = |path: PathBuf| {
        let names = path.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.map(|n| n.trim_end_matches(".rs").to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(folder(corpus()), names);
    assert_eq!(folder(corpus().join("../fuzz_targets")), names);
    let all: Vec<_> = names.iter().flat_map(|name| kept(&corpus().join(name)).unwrap()).collect();
    let bytes: usize = all.iter().map(|(_, input)| input.len()).sum();
    assert!(all.len() < 400 && bytes < 300_000, "{} inputs of {bytes} bytes: minimise them", all.len());
    let long = all.iter().find(|(_, input)| input.len() > INPUT_MAX);
    assert!(long.is_none(), "{} is longer than {INPUT_MAX} bytes", long.map_or("", |(name, _)| name));
}

/// `FOREBAY_FUZZ_SEEDS=FOLDER` has the seeds written there, a folder a target: what a fuzzer begins with.
#[test]
fn the_seeds_are_written_where_they_are_wanted() {
    let wanted = std::env::var_os("FOREBAY_FUZZ_SEEDS").map(PathBuf::from);
    let own = tempfile::tempdir().unwrap();
    let into = wanted.unwrap_or_else(|| own.path().to_owned());
    for (name, _) in targets::ALL {
        std::fs::create_dir_all(into.join(name)).unwrap();
        for (seed, bytes) in seeds::of(name) {
            assert!(!bytes.is_empty() && bytes.len() <= INPUT_MAX, "{name} {seed}: {} bytes", bytes.len());
            std::fs::write(into.join(name).join(seed), bytes).unwrap();
        }
        assert!(kept(&into.join(name)).unwrap().len() >= 5, "{name} has few seeds");
    }
}
