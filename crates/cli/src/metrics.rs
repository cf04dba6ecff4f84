//! `/health` and `/metrics`, on the S3 port.

use std::fmt::Write;
use std::sync::Weak;

use node::{Health, Node};
use s3::metrics::BOUNDS_US;
use s3::response::{Body, Response, with_body};
use s3::{Aside, Face};

/// Answers these two paths.
pub fn aside(node: Node, face: Weak<Face>) -> Aside {
    std::sync::Arc::new(move |method, path| {
        if method != "GET" && method != "HEAD" {
            return None;
        }
        match path {
            "/health" => Some(health(&node)),
            "/metrics" => Some(text(200, "text/plain; version=0.0.4", metrics(&node, face.upgrade().as_deref()))),
            _ => None,
        }
    })
}

fn text(status: u16, kind: &'static str, text: String) -> Response {
    let mut response = with_body(
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR),
        Body::Full(text.into()),
    );
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    response
}

/// 200 while requests are served, degraded or not; 503 if no drive works.
fn health(node: &Node) -> Response {
    let (status, word) = match node.health() {
        Health::Green => (200, "green"),
        Health::Yellow => (200, "yellow"),
        Health::Red => (503, "red"),
    };
    text(status, "application/json", format!("{{\"health\":\"{word}\"}}\n"))
}

/// Prometheus' text format, version 0.0.4.
fn metrics(node: &Node, face: Option<&Face>) -> String {
    let mut out = String::new();
    let gauges = node.gauges();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let each = |value: fn(&node::DriveGauges) -> f64| -> Vec<(String, f64)> {
        gauges.drives.iter().map(|drive| (format!("{{drive=\"{}\"}}", drive.id), value(drive))).collect()
    };
    family("abide_drive_up", "gauge", "Whether the drive works.", &each(|drive| f64::from(u8::from(drive.up))));
    family(
        "abide_drive_free_bytes",
        "gauge",
        "Bytes free on the drive's file system.",
        &each(|drive| drive.free as f64),
    );
    family("abide_drive_used_bytes", "gauge", "Bytes of pieces and trash.", &each(|drive| drive.used as f64));
    family("abide_drive_pieces", "gauge", "Pieces that can be read.", &each(|drive| drive.pieces as f64));
    family(
        "abide_drive_read_errors_total",
        "counter",
        "Reads that the drive refused.",
        &each(|drive| drive.errors as f64),
    );
    let one = |value: f64| [(String::new(), value)];
    let health = match node.health() {
        Health::Green => 0.0,
        Health::Yellow => 1.0,
        Health::Red => 2.0,
    };
    family("abide_health", "gauge", "0 all drives work, 1 some are missing, 2 none works.", &one(health));
    family("abide_repair_pieces", "gauge", "Pieces left to rebuild.", &one(gauges.repair_pieces as f64));
    family(
        "abide_repaired_pieces_total",
        "counter",
        "Pieces rebuilt since the start.",
        &one(gauges.repaired_pieces as f64),
    );
    family(
        "abide_repair_failures_total",
        "counter",
        "Repairs that failed since the start.",
        &one(gauges.repair_failures as f64),
    );
    family(
        "abide_repaired_bytes_total",
        "counter",
        "Bytes of pieces rebuilt or moved since the start.",
        &one(gauges.repaired_bytes as f64),
    );
    family(
        "abide_repair_read_bytes_total",
        "counter",
        "Bytes of pieces read for that.",
        &one(gauges.repair_read_bytes as f64),
    );
    family(
        "abide_repair_share_ratio",
        "gauge",
        "What users leave to repair and moving of data, of what the pace says.",
        &one(f64::from(gauges.repair_share_permille) / 1000.0),
    );
    let survives = gauges.safeties.iter().flat_map(|safety| {
        let labels = |domain: &String| format!("{{policy=\"{}\",domain=\"{domain}\"}}", safety.policy);
        safety.survives.iter().map(move |(domain, count)| (labels(domain), *count as f64))
    });
    let help = "Losses that the worst segment of a policy survives, by kind; told by the node that repairs.";
    family("abide_survives_losses", "gauge", help, &survives.collect::<Vec<_>>());
    let ages = [("checked", gauges.proof.checked_secs), ("scrubbed", gauges.proof.scrubbed_secs)];
    let ages = ages.map(|(kind, secs)| (format!("{{proof=\"{kind}\"}}"), secs as f64));
    family("abide_proof_age_seconds", "gauge", "Since pieces were last asked for, and read through.", &ages);
    let Some(face) = face else { return out };
    let all = face.metrics().snapshot();
    let by = |value: fn(&s3::metrics::OperationMetrics) -> u64| -> Vec<(String, f64)> {
        all.iter().map(|one| (format!("{{operation=\"{}\"}}", one.operation), value(one) as f64)).collect()
    };
    family("abide_s3_requests_total", "counter", "Requests answered.", &by(|one| one.requests));
    family("abide_s3_refused_total", "counter", "Requests answered with 4xx.", &by(|one| one.refused));
    family("abide_s3_failed_total", "counter", "Requests answered with 5xx.", &by(|one| one.failed));
    family("abide_s3_bytes_in_total", "counter", "Payload bytes taken.", &by(|one| one.bytes_in));
    family("abide_s3_bytes_out_total", "counter", "Payload bytes given.", &by(|one| one.bytes_out));
    family("abide_s3_connections", "gauge", "Connections open now.", &one(face.metrics().connections() as f64));
    histogram(&mut out, &all);
    out
}

fn histogram(out: &mut String, all: &[s3::metrics::OperationMetrics]) {
    let name = "abide_s3_latency_seconds";
    let _ = writeln!(out, "# HELP {name} Time until the head of the answer was ready.\n# TYPE {name} histogram");
    for one in all {
        let mut sum = 0;
        for (at, count) in one.buckets.iter().enumerate() {
            sum += count;
            let bound = BOUNDS_US.get(at).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            let _ = writeln!(out, "{name}_bucket{{operation=\"{}\",le=\"{bound}\"}} {sum}", one.operation);
        }
        let _ = writeln!(out, "{name}_sum{{operation=\"{}\"}} {}", one.operation, one.latency_us as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{{operation=\"{}\"}} {sum}", one.operation);
    }
}
