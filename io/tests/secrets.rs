//! What the kernel says about the page that a secret lies on.

use farside_io::secret::SecretPage;

/// The flags of the mapping that holds an address (proc_pid_smaps(5)).
fn flags_at(address: usize) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("read");
    let mut inside = false;
    for line in maps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let bounds = range
            .and_then(|(from, to)| Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?)));
        if let Some((from, to)) = bounds {
            inside = (from..to).contains(&address);
        }
        if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.split_whitespace().map(str::to_owned).collect();
        }
    }
    Vec::new()
}

#[test]
fn a_secret_is_locked_and_left_out_of_dumps() {
    let secret = SecretPage::new(&[7; 32]).expect("a page");
    assert_eq!(secret.as_ref(), [7; 32]);
    let flags = flags_at(secret.as_ref().as_ptr() as usize);
    let has = |flag: &str| flags.iter().any(|found| found == flag);
    assert!(has("dd"), "it would be dumped: {flags:?}");
    assert_eq!(has("lo"), secret.is_locked(), "{flags:?}");
    assert!(secret.is_locked(), "32 bytes can be locked anywhere");
    // Pages of others are not.
    let other = Box::new([7u8; 32]);
    assert!(!flags_at(other.as_ptr() as usize).iter().any(|flag| flag == "dd"));
}
