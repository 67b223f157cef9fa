//! What `nft -j list ruleset` prints: libnftables-json(5).

use serde_json::Value;

use super::{super::Address, Only, Rule};

pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let json: Value = serde_json::from_str(text).map_err(|error| format!("nft's output is no JSON: {error}"))?;
    let items = json["nftables"].as_array().ok_or("nft's output has no list of rules")?;
    Ok(items.iter().filter_map(|item| rule(&item["rule"])).collect())
}

fn rule(rule: &Value) -> Option<Rule> {
    let expressions = rule["expr"].as_array()?;
    let (action, target) = expressions.iter().find_map(action)?;
    let words: Vec<String> = expressions.iter().filter_map(words).collect();
    let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
    Some(Rule {
        netns: 0,
        from: "nftables",
        table: format!("{} {}", text("family"), text("table")),
        chain: text("chain"),
        to: target["addr"].as_str().and_then(|to| to.parse().ok()),
        action,
        text: words.join(" "),
        source: expressions.iter().find_map(source),
    })
}

/// The statement that rewrites, and what it is given.
fn action(expression: &Value) -> Option<(String, &Value)> {
    let (name, value) = expression.as_object()?.iter().next()?;
    match name.as_str() {
        "masquerade" | "snat" | "dnat" | "redirect" => Some((name.clone(), value)),
        // A target of iptables-nft's that nft does not translate.
        "xt" => match value["name"].as_str()? {
            target @ ("MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT") => Some((target.to_lowercase(), value)),
            _ => None,
        },
        _ => None,
    }
}

fn source(expression: &Value) -> Option<Only> {
    let matched = &expression["match"];
    let field = &matched["left"]["payload"];
    if field["field"] != "saddr" || !matches!(field["protocol"].as_str(), Some("ip" | "ip6")) {
        return None;
    }
    let not = matched["op"] == "!=";
    Some(Only { address: Address::parse(&address(&matched["right"])?)?, not })
}

/// `"10.0.0.1"`, `{"prefix": {"addr": "10.0.0.0", "len": 8}}`
fn address(value: &Value) -> Option<String> {
    let prefix = &value["prefix"];
    match (value.as_str(), prefix["addr"].as_str()) {
        (Some(text), _) => Some(text.to_owned()),
        (_, Some(addr)) => Some(format!("{addr}/{}", prefix["len"].as_u64()?)),
        _ => None,
    }
}

/// Near to how nft shows it.
fn words(expression: &Value) -> Option<String> {
    let (name, value) = expression.as_object()?.iter().next()?;
    Some(match name.as_str() {
        "counter" | "comment" => return None,
        "match" => {
            let op = value["op"].as_str().filter(|op| *op != "==" && *op != "in").map(|op| format!("{op} "));
            format!("{} {}{}", left(&value["left"]), op.unwrap_or_default(), right(&value["right"]))
        }
        "xt" => value["name"].as_str().unwrap_or("xt").to_owned(),
        "masquerade" | "snat" | "dnat" | "redirect" => {
            let (addr, port) = (address(&value["addr"]), value["port"].as_u64());
            let colon = port.map_or_else(String::new, |port| format!(":{port}"));
            let to = addr.map(|addr| if addr.contains(':') { format!("[{addr}]") } else { addr });
            match (to, port) {
                (None, None) => name.clone(),
                (to, _) => format!("{name} to {}{colon}", to.unwrap_or_default()),
            }
        }
        _ => name.clone(),
    })
}

fn left(value: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    match value.as_object().and_then(|object| object.iter().next()) {
        Some((name, of)) if name == "payload" => format!("{} {}", text(&of["protocol"]), text(&of["field"])),
        Some((_, of)) => text(&of["key"]),
        None => value.to_string(),
    }
}

fn right(value: &Value) -> String {
    address(value).unwrap_or_else(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints them; the last but one as iptables-nft made it.
    const LISTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "nat", "handle": 1}},
        {"chain": {"family": "ip", "table": "nat", "name": "post", "handle": 1, "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "nat", "chain": "post", "handle": 2, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "10.9.0.0", "len": 24}}}},
            {"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "br\u001b0"}},
            {"counter": {"packets": 0, "bytes": 0}}, {"masquerade": null}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "pre", "handle": 3, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8080}},
            {"dnat": {"addr": "10.9.0.2", "port": 80}}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "POSTROUTING", "handle": 4, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.9.0.2"}},
            {"xt": {"type": "target", "name": "MASQUERADE"}}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 5, "expr": [{"drop": null}]}}]}"#;

    #[test]
    fn a_ruleset() {
        let rules = parse(LISTED).expect("JSON");
        let texts: Vec<&str> = rules.iter().map(|rule| rule.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "ip saddr 10.9.0.0/24 oifname != br\u{1b}0 masquerade",
                "tcp dport 8080 dnat to 10.9.0.2:80",
                "ip saddr 10.9.0.2 MASQUERADE"
            ]
        );
        let only = |text: &str| Some(Only { address: Address::parse(text).expect("an address"), not: false });
        assert_eq!((rules[0].action.as_str(), rules[0].source, rules[0].to), ("masquerade", only("10.9.0.0/24"), None));
        assert_eq!((rules[1].action.as_str(), rules[1].to), ("dnat", "10.9.0.2".parse().ok()));
        assert_eq!((rules[2].action.as_str(), rules[2].source), ("masquerade", only("10.9.0.2/32")));
    }

    #[test]
    fn what_is_not_its_output() {
        for wrong in ["", "{}", "[]", "{\"nftables\": 1}"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse(r#"{"nftables": [{"rule": {"expr": [1, {}, {"xt": null}, {"match": 2}]}}, 7]}"#), Ok(vec![]));
    }
}
