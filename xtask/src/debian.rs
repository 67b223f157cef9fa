//! What apt's files and lists say, as functions of their text: mirrors, and which version of what is on offer.

/// A Debian mirror, as apt's sources name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
}

impl Source {
    pub fn new(uri: &str) -> Self {
        Self { uri: uri.trim_end_matches('/').to_owned() }
    }

    /// The first mirror of Debian itself in a sources file of either format; other archives are passed over.
    pub fn find(text: &str) -> Option<Self> {
        text.lines()
            .filter_map(|line| line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb ")))
            .flat_map(str::split_whitespace)
            .map(|word| word.trim_end_matches('/'))
            .find(|word| word.contains("://") && word.ends_with("/debian"))
            .map(Self::new)
    }

    /// A sources.list for some suites. Debian keeps the security suites in an archive of their own.
    pub fn list(&self, suites: &[&str]) -> String {
        let line = |suite: &&str| {
            let archive = if suite.ends_with("-security") { "-security" } else { "" };
            format!("deb [arch=amd64 signed-by={KEYRING}] {}{archive} {suite} main\n", self.uri)
        };
        suites.iter().map(line).collect()
    }
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The kernels of the matrix and which of Debian's suites have them.
pub fn kernel_suites(want: &str) -> &'static [&'static str] {
    match series(want).as_slice() {
        [5, 10, ..] => &["bullseye", "bullseye-security"],
        [6, 1, ..] => &["bookworm", "bookworm-security"],
        [6, 12, ..] => &["bookworm-backports", "bookworm-security"],
        _ => &["trixie-backports"],
    }
}

/// The newest kernel whose version begins with `want` and that can be had whole: its release, without the flavour.
///
/// The package that carries the modules must be there: linux-modules-V since 6.19, linux-image-V before.
/// A linux-image-V of a few kB is only a metapackage.
pub fn newest_kernel(available: &str, want: &str, flavour: &str) -> Option<String> {
    let suffix = format!("-{flavour}");
    stanzas(available)
        .filter(|package| package.size > 100_000)
        .filter_map(|package| {
            let rest =
                package.name.strip_prefix("linux-image-").or_else(|| package.name.strip_prefix("linux-modules-"))?;
            rest.strip_suffix(suffix.as_str())
        })
        .filter(|version| is_release(version))
        .filter(|version| match version.strip_prefix(want) {
            Some(rest) => rest.is_empty() || rest.starts_with(['.', '-', '+']),
            None => false,
        })
        .max_by_key(|version| release_key(version))
        .map(str::to_owned)
}

/// The packages that make up a kernel: three since 6.19, one before.
pub fn kernel_packages(available: &str, release: &str) -> Vec<String> {
    let modules = format!("linux-modules-{release}");
    if stanzas(available).any(|package| package.name == modules) {
        return vec![format!("linux-binary-{release}"), modules, format!("linux-base-{release}")];
    }
    vec![format!("linux-image-{release}")]
}

/// Debian's version of exactly this upstream version, from `apt-cache madison`.
pub fn version_of_upstream(madison: &str, upstream: &str) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let same = |version: &&str| {
        version.strip_prefix(upstream).is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', '-', '~']))
    };
    versions.filter(|version| !version.contains("~rc")).find(same).map(str::to_owned)
}

struct Stanza<'a> {
    name: &'a str,
    size: u64,
}

fn stanzas(available: &str) -> impl Iterator<Item = Stanza<'_>> {
    available.split("\n\n").filter_map(|text| {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Stanza { name: field("Package:")?, size: field("Size:")?.parse().ok()? })
    })
}

/// `6.1.0-44`, `6.18.15+deb13`: no release candidates, no other flavours.
fn is_release(version: &str) -> bool {
    let (upstream, debian) = version.split_once("+deb").unwrap_or((version, "0"));
    let (upstream, abi) = upstream.split_once('-').unwrap_or((upstream, "0"));
    let numbers = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    numbers(upstream) && numbers(debian) && !abi.is_empty() && abi.chars().all(|c| c.is_ascii_digit())
}

fn release_key(version: &str) -> (Vec<u64>, Vec<u64>) {
    let (upstream, debian) = version.split_once('+').unwrap_or((version, ""));
    (series(upstream), series(debian))
}

fn series(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available(packages: &[(&str, u64)]) -> String {
        let stanza = |(name, size): &(&str, u64)| format!("Package: {name}\nVersion: 1\nSize: {size}\nSHA256: 0\n");
        packages.iter().map(stanza).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_newest_whole_kernel_of_a_series() {
        let list = available(&[
            ("linux-image-6.1.0-9-cloud-amd64", 30_000_000),
            ("linux-image-6.1.0-44-cloud-amd64", 30_000_000),
            ("linux-image-6.1.0-44-rt-amd64", 30_000_000),
            ("linux-image-6.1.0-45-amd64", 70_000_000),
            ("linux-image-6.12.9+deb12-cloud-amd64", 30_000_000),
            ("linux-image-cloud-amd64", 1_500),
        ]);
        assert_eq!(newest_kernel(&list, "6.1", "cloud-amd64").as_deref(), Some("6.1.0-44"));
        assert_eq!(newest_kernel(&list, "6.1.0-9", "cloud-amd64").as_deref(), Some("6.1.0-9"));
        assert_eq!(newest_kernel(&list, "6.12", "cloud-amd64").as_deref(), Some("6.12.9+deb12"));
        assert_eq!(newest_kernel(&list, "6", "cloud-amd64").as_deref(), Some("6.12.9+deb12"));
        assert_eq!(newest_kernel(&list, "6.18", "cloud-amd64"), None);
        assert_eq!(kernel_packages(&list, "6.1.0-44-cloud-amd64"), ["linux-image-6.1.0-44-cloud-amd64"]);
    }

    #[test]
    fn a_metapackage_is_no_kernel() {
        let list = available(&[
            ("linux-image-7.3.4+deb13-cloud-amd64", 1_400),
            ("linux-image-7.3.3+deb13-cloud-amd64", 1_400),
            ("linux-modules-7.3.3+deb13-cloud-amd64", 25_000_000),
            ("linux-modules-7.3~rc4-cloud-amd64", 25_000_000),
            ("linux-modules-7.3+deb13-cloud-amd64", 25_000_000),
        ]);
        assert_eq!(newest_kernel(&list, "7.3", "cloud-amd64").as_deref(), Some("7.3.3+deb13"));
        assert_eq!(newest_kernel(&list, "7.3.4", "cloud-amd64"), None);
        let release = "7.3.3+deb13-cloud-amd64";
        let parts = ["linux-binary-", "linux-modules-", "linux-base-"].map(|part| format!("{part}{release}"));
        assert_eq!(kernel_packages(&list, release), parts);
    }

    #[test]
    fn the_same_rust_and_no_other() {
        let madison = "  rust-src | 1.95.0+dfsg1-1~bpo13+1 | http://m/debian trixie-backports/main amd64 Packages\n  \
                       rust-src | 1.95.1+dfsg1-1 | http://m/debian sid/main amd64 Packages\n  \
                       rust-src | 1.85.0+dfsg3-1 | http://m/debian trixie/main amd64 Packages\n";
        assert_eq!(version_of_upstream(madison, "1.95.0").as_deref(), Some("1.95.0+dfsg1-1~bpo13+1"));
        assert_eq!(version_of_upstream(madison, "1.85.0").as_deref(), Some("1.85.0+dfsg3-1"));
        assert_eq!(version_of_upstream(madison, "1.95"), None);
        assert_eq!(version_of_upstream("", "1.95.0"), None);
    }

    #[test]
    fn the_mirror_in_both_formats_and_no_foreign_archive() {
        let deb822 = "Types: deb\n# http://old/archive/debian/2025\nURIs: http://m/debian/\nSuites: bookworm\n\n\
                      Types: deb\nURIs: http://m/debian-security\nSuites: bookworm-security\n";
        let one_line = "# deb http://no/debian x main\ndeb [arch=amd64] https://foreign/apt stable main\n\
                        deb [signed-by=/k] http://m/debian bookworm main\n";
        for text in [deb822, one_line] {
            assert_eq!(Source::find(text), Some(Source::new("http://m/debian")));
        }
        assert_eq!(Source::find("deb https://foreign/apt stable main\n"), None);
        let list = Source::new("http://m/debian").list(&["bookworm", "bookworm-security"]);
        assert!(
            list.contains(" http://m/debian bookworm main\n")
                && list.contains(" http://m/debian-security bookworm-security main\n")
        );
    }

    #[test]
    fn each_matrix_kernel_has_its_suites() {
        assert_eq!(kernel_suites("5.10")[0], "bullseye");
        assert_eq!(kernel_suites("6.1")[0], "bookworm");
        assert_eq!(kernel_suites("6.1.0-44")[0], "bookworm");
        assert_eq!(kernel_suites("6.12")[0], "bookworm-backports");
        assert_eq!(kernel_suites("6.18")[0], "trixie-backports");
        assert_eq!(kernel_suites("7.3")[0], "trixie-backports");
    }
}
