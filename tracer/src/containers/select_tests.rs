use super::*;
use crate::containers::{Facts, Seen, Table};

const A: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";
const B: &str = "a1b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2";

fn table() -> Table {
    let mut table = Table::default();
    let pod = |number: u32, id: char| {
        format!("/kubepods/burstable/pod0000000{number}-1111-2222-3333-444455556666/{}", id.to_string().repeat(64))
    };
    let paths = [
        (1, format!("/docker/{A}")),
        (2, format!("/docker/{B}")),
        (3, "/system.slice/nginx.service".to_owned()),
        (4, "/lxc/box".to_owned()),
        (5, pod(1, 'c')),
        (6, pod(1, 'd')),
        (7, pod(1, 'e')),
        (8, pod(2, 'f')),
        (9, pod(3, '0')),
    ];
    table.seed(paths.into_iter().map(|(id, path)| Seen { id, path }), 0);
    let name = |name: &str| Facts { name: Some(name.to_owned()), ..Facts::default() };
    let of_pod = |own: &str, pod: &str, namespace: &str, sandbox| Facts {
        pod: Some(pod.to_owned()),
        namespace: Some(namespace.to_owned()),
        sandbox,
        ..name(own)
    };
    table.named(1, name("web"));
    table.named(2, name("api"));
    table.named(5, of_pod("app", "shop-0", "prod", false));
    table.named(6, of_pod("proxy", "shop-0", "prod", false));
    table.named(7, of_pod("pause", "shop-0", "prod", true));
    table.named(8, of_pod("app", "shop-0", "test", false));
    table.named(9, of_pod("job", "cron-1", "prod", false));
    table
}

#[test]
fn every_way_to_name_one() {
    let table = table();
    for (wanted, want) in [
        ("web", vec!["web"]),
        (A, vec!["web"]),
        (&A[..12], vec!["web"]),
        ("a1b", vec!["api"]),
        ("nginx", vec!["nginx.service"]),
        ("nginx.service", vec!["nginx.service"]),
        ("/system.slice/nginx.service", vec!["nginx.service"]),
        ("/lxc/box/", vec!["box"]),
        ("box", vec!["box"]),
        ("proxy", vec!["prod/shop-0/proxy"]),
        ("prod/shop-0/app", vec!["prod/shop-0/app"]),
        ("test/shop-0", vec!["test/shop-0/app"]),
        ("prod/shop-0", vec!["prod/shop-0/app", "prod/shop-0/proxy"]),
        ("cron-1", vec!["prod/cron-1/job"]),
        ("cron-1/job", vec!["prod/cron-1/job"]),
        ("shop-0/proxy", vec!["prod/shop-0/proxy"]),
    ] {
        let found = select(wanted, table.containers());
        let labels: Vec<String> =
            found.as_ref().map(|found| found.containers().iter().map(|one| one.label()).collect()).unwrap_or_default();
        assert_eq!(labels, want, "{wanted}: {found:?}");
    }
}

#[test]
fn ambiguous_lists_the_candidates() {
    let table = table();
    for (wanted, count) in [("app", 2), ("shop-0", 4), ("shop-0/app", 2), ("a1a", 1), ("a1", 0)] {
        match select(wanted, table.containers()) {
            Err(Unselected::Ambiguous { candidates, .. }) => assert_eq!(candidates.len(), count, "{wanted}"),
            Ok(found) => assert_eq!((found.containers().len(), count), (1, 1), "{wanted}"),
            Err(Unselected::Unknown { .. }) => assert_eq!(count, 0, "{wanted}: too short to be an id"),
        }
    }
    let text = select("app", table.containers()).expect_err("two").to_string();
    assert_eq!(
        text,
        "2 containers are called app:\n    cccccccccccc  prod/shop-0/app\n    ffffffffffff  test/shop-0/app\nGive one of these, or the beginning of its id."
    );
}

#[test]
fn unknown_names_the_nearest() {
    let table = table();
    let text = |wanted: &str| select(wanted, table.containers()).expect_err("none").to_string();
    assert!(text("wep").starts_with("no container wep here; did you mean web?\n"), "{}", text("wep"));
    assert!(text("ngnix").contains("nginx"), "{}", text("ngnix"));
    assert!(text("prod/shop-1").contains("prod/shop-0"), "{}", text("prod/shop-1"));
    assert!(text("/system.slice").contains("no container /system.slice here"));
    assert!(text("zzzzzz").ends_with("`ctrace containers` lists all that are here; --wait waits for one to appear."));
    assert!(text("").starts_with("no container  here"));
    assert_eq!(
        text("\u{1b}[31m\n"),
        "no container \\u{1b}[31m\\n here.\n`ctrace containers` lists all that are here; --wait waits for one to appear."
    );
    assert!(text(&"é".repeat(40_000)).len() < 1000);
}
