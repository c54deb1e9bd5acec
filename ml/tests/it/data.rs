//! Ingesting: every format, and files that mean harm.

use std::io::Cursor;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use protocol::model::Architecture;
use protocol::worker::{
    DataFormat, FailureKind, IngestJob, IngestOutcome, WorkerOutcome, WorkerRequest,
};

use crate::process::{Process, file};

fn job(format: DataFormat, inputs: &[&str]) -> IngestJob {
    IngestJob {
        format,
        inputs: inputs.iter().map(|name| file(name)).collect(),
        text_column: Some("text".into()),
        label_column: None,
        architecture: None,
        held_out_ppm: 200_000,
        shard_bytes: 4_096,
        prefix: file("out"),
    }
}

fn ingest(worker: &mut Process, job: IngestJob) -> IngestOutcome {
    match worker.done(WorkerRequest::Ingest(job)) {
        WorkerOutcome::Ingested(outcome) => outcome,
        other => panic!("expected shards, got {other:?}"),
    }
}

fn refused(worker: &mut Process, job: IngestJob) -> String {
    let (kind, message) = worker.fails(WorkerRequest::Ingest(job));
    assert_eq!(kind, FailureKind::BadInput, "{message}");
    message
}

fn reasons(outcome: &IngestOutcome) -> Vec<(&str, u64)> {
    outcome.rejected.iter().map(|(reason, count)| (reason.as_str(), *count)).collect()
}

/// Documents of the training shards and of the held-out split.
fn documents(worker: &Process, outcome: &IngestOutcome) -> (Vec<String>, Vec<String>) {
    let split = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.is_empty() || text.ends_with('\0'));
        text.split_terminator('\0').map(String::from).collect::<Vec<_>>()
    };
    let mut train = Vec::new();
    for (number, (bytes, count)) in outcome.shards.iter().enumerate() {
        let shard = worker.get(&format!("out.train.{number}"));
        assert_eq!(u64::try_from(shard.len()).expect("small"), *bytes);
        let own = split(shard);
        assert_eq!(u32::try_from(own.len()).expect("small"), *count);
        train.extend(own);
    }
    (train, split(worker.get("out.held-out.0")))
}

fn mlp() -> Architecture {
    Architecture::Mlp { inputs: 2, hidden: 8, layers: 1, classes: 3 }
}

fn cnn(channels: u32) -> Architecture {
    Architecture::Cnn {
        height: 8,
        width: 8,
        channels,
        features: 4,
        classes: 3,
        mean_ppm: 0,
        deviation_ppm: 1_000_000,
    }
}

#[test]
fn json_lines_split_once_and_in_bounds() {
    let mut worker = Process::start();
    let mut lines: Vec<String> =
        (0..300).map(|i| format!(r#"{{"text": "document {i} é", "other": [{i}]}}"#)).collect();
    lines.push(lines[7].clone());
    lines.push(String::new());
    for bad in [
        "not json",
        r#"{"text": 5}"#,
        r#"{"other": "x"}"#,
        r#"{"text": "  "}"#,
        r#"{"text": "a\u0000b"}"#,
        r#"{"text": "\ud800"}"#,
    ] {
        lines.push(bad.into());
    }
    lines.push(format!(r#"{{"text": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)));
    lines.push(format!(r#"{{"text": "{}"}}"#, "x".repeat(1 << 20)));
    lines.push(format!(r#"{{"text": "{}"}}"#, "x".repeat(9 << 20)));
    let mut bytes = lines.join("\n").into_bytes();
    bytes.extend_from_slice(b"\n{\"text\": \"\xff\"}\n{\"text\": \"last\"}");
    worker.put("a.jsonl", &bytes);
    let outcome = ingest(&mut worker, job(DataFormat::Jsonl, &["a.jsonl"]));
    assert_eq!(outcome.duplicates, 1);
    assert_eq!(
        reasons(&outcome),
        [
            ("a line longer than 8 MiB", 1),
            ("empty", 1),
            ("has a NUL byte inside", 1),
            ("has no text in the text's column", 2),
            ("longer than 1 MiB", 1),
            ("not a JSON object", 4),
        ]
    );
    assert_eq!(outcome.examples.len(), 10);
    assert_eq!(outcome.examples[0], "a.jsonl: line 303: not a JSON object");
    let (train, held_out) = documents(&worker, &outcome);
    assert_eq!(train.len() + held_out.len(), 301);
    assert_eq!(u64::try_from(held_out.len()).expect("small"), outcome.held_out_documents);
    assert!((30..90).contains(&held_out.len()), "a fifth: {}", held_out.len());
    assert!(train.iter().all(|document| !held_out.contains(document)));
    assert!(outcome.shards.iter().all(|(bytes, _)| *bytes <= 4_096));
    assert!(outcome.shards.len() > 1);

    // The same documents elsewhere, in another order, fall on the same sides.
    lines.truncate(300);
    lines.reverse();
    worker.put("b.jsonl", lines.join("\n").as_bytes());
    let again = ingest(&mut worker, job(DataFormat::Jsonl, &["b.jsonl"]));
    let (_, other) = documents(&worker, &again);
    assert!(other.iter().all(|document| held_out.contains(document)));
}

#[test]
fn texts_and_tables_of_numbers() {
    let mut worker = Process::start();
    worker.put("a.txt", "grüße".as_bytes());
    worker.put("b.txt", b"\xff\xfe");
    worker.put("c.txt", b"");
    let outcome = ingest(&mut worker, job(DataFormat::Text, &["a.txt", "b.txt", "c.txt", "a.txt"]));
    assert_eq!((outcome.documents, outcome.duplicates), (4, 1));
    assert_eq!(reasons(&outcome), [("empty", 1), ("not UTF-8", 1)]);

    let csv = "x,\"y\",class\n1,2,0\n3,4.5,2\n\n1,nan,0\n1,2\n1,x,0\n1,2,3\n1,2,-1\n7,8,\"1\"\n";
    worker.put("a.csv", csv.as_bytes());
    let table = IngestJob {
        text_column: None,
        label_column: Some("class".into()),
        architecture: Some(mlp()),
        held_out_ppm: 0,
        ..job(DataFormat::Csv, &["a.csv"])
    };
    let outcome = ingest(&mut worker, table.clone());
    assert_eq!(
        reasons(&outcome),
        [
            ("a number is not finite", 1),
            ("has another number of fields than the header", 1),
            ("has text for a number", 1),
            ("its label is not a whole number", 1),
            ("its label is not below the number of classes", 1),
        ]
    );
    let row =
        |x: f32, y: f32, class: u8| [&x.to_le_bytes()[..], &y.to_le_bytes(), &[class, 0]].concat();
    let expect = [row(1.0, 2.0, 0), row(3.0, 4.5, 2), row(7.0, 8.0, 1)].concat();
    assert_eq!(worker.get("out.train.0"), expect);

    let json = "{\"class\": 1, \"v\": [3, 4]}\n{\"class\": 1.5, \"v\": [3, 4]}\n{\"class\": 0, \"v\": [3]}";
    worker.put("a.jsonl", json.as_bytes());
    let lines =
        IngestJob { format: DataFormat::Jsonl, inputs: vec![file("a.jsonl")], ..table.clone() };
    ingest(&mut worker, lines);
    assert_eq!(worker.get("out.train.0"), row(3.0, 4.0, 1));

    let missing = IngestJob { label_column: Some("none".into()), ..table.clone() };
    assert!(refused(&mut worker, missing).contains("no column \"none\"; it has x, y, class"));
    refused(&mut worker, IngestJob { label_column: None, ..table.clone() });
    refused(&mut worker, IngestJob { shard_bytes: 1, ..table.clone() });
    refused(&mut worker, IngestJob { inputs: vec![file("none")], ..table });
}

fn parquet_file(rows: &[(&str, i64)]) -> Vec<u8> {
    let schema = "message rows { required binary text (UTF8); required int64 class; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties =
        WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let texts: Vec<ByteArray> = rows.iter().map(|(text, _)| ByteArray::from(*text)).collect();
    let mut column = group.next_column().expect("in the file").expect("a column");
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).expect("written");
    column.close().expect("closed");
    let classes: Vec<i64> = rows.iter().map(|(_, class)| *class).collect();
    let mut column = group.next_column().expect("in the file").expect("a column");
    column.typed::<Int64Type>().write_batch(&classes, None, None).expect("written");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
    bytes
}

#[test]
fn parquet_and_parquet_that_means_harm() {
    let mut worker = Process::start();
    let texts: Vec<String> = (0..500).map(|i| format!("row {i}")).collect();
    let rows: Vec<(&str, i64)> = texts.iter().map(|text| (text.as_str(), 1)).collect();
    let good = parquet_file(&rows);
    worker.put("good", &good);
    let text = job(DataFormat::Parquet, &["good"]);
    let outcome = ingest(&mut worker, text.clone());
    let (train, held_out) = documents(&worker, &outcome);
    assert_eq!(train.len() + held_out.len(), 500);
    assert!(train.contains(&"row 499".to_owned()) || held_out.contains(&"row 499".to_owned()));
    let classifier = Architecture::TextClassifier {
        layers: 1,
        width: 16,
        heads: 1,
        context: 16,
        vocabulary: 256,
        classes: 2,
    };
    let labelled = IngestJob {
        label_column: Some("class".into()),
        architecture: Some(classifier),
        held_out_ppm: 0,
        shard_bytes: 1 << 20,
        ..text.clone()
    };
    ingest(&mut worker, labelled);
    let records = worker.get("out.train.0");
    assert_eq!(&records[..20], b"\x05\0row 0\0\0\0\0\0\0\0\0\0\0\0\x01\0");

    // A page that unpacks to more than it may: rows of one long text fold to almost nothing.
    let long = "y".repeat(80 << 20);
    worker.put("bomb", &parquet_file(&[(&long, 1)]));
    let bomb = IngestJob { inputs: vec![file("bomb")], ..text.clone() };
    assert!(refused(&mut worker, bomb).contains("unpacks to"));
    let missing = IngestJob { text_column: Some("none".into()), ..text.clone() };
    assert!(refused(&mut worker, missing).contains("it has text, class"));

    // Damage anywhere: an error or fewer rows, and the worker lives.
    let damaged = IngestJob { inputs: vec![file("damaged")], ..text };
    for at in (0..good.len()).step_by(good.len() / 60) {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= change;
            worker.put("damaged", &bytes);
            let (_, reply) = worker.ask(WorkerRequest::Ingest(damaged.clone()));
            drop(reply);
        }
        worker.put("damaged", &good[..at]);
        refused(&mut worker, damaged.clone());
    }
    worker.done(WorkerRequest::Describe);
}

#[test]
fn images_and_idx() {
    let mut worker = Process::start();
    let mut png = Vec::new();
    let gradient = image::GrayImage::from_fn(16, 16, |x, _| {
        image::Luma([u8::try_from(x * 16).expect("small")])
    });
    gradient.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).expect("written");
    let mut jpeg = Vec::new();
    gradient.write_to(&mut Cursor::new(&mut jpeg), image::ImageFormat::Jpeg).expect("written");
    worker.put("2.0.png", &png);
    worker.put("1.0.jpg", &jpeg);
    worker.put("9.0.png", &png);
    worker.put("cat.0.png", &png);
    worker.put("0.0.png", &png[..40]);
    worker.put("0.1.png", b"GIF89a nonsense");
    // A header that promises 60,000 x 60,000 pixels.
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    worker.put("0.2.png", &huge);
    let names =
        ["2.0.png", "1.0.jpg", "9.0.png", "cat.0.png", "0.0.png", "0.1.png", "0.2.png", "2.0.png"];
    let images = IngestJob {
        architecture: Some(cnn(1)),
        held_out_ppm: 0,
        ..job(DataFormat::Images, &names)
    };
    let outcome = ingest(&mut worker, images.clone());
    assert_eq!(outcome.shards, [(132, 2)], "{outcome:?}");
    assert_eq!(outcome.duplicates, 1);
    let refusals: u64 = outcome.rejected.iter().map(|(_, count)| count).sum();
    assert_eq!(refusals, 5, "{outcome:?}");
    let records = worker.get("out.train.0");
    assert_eq!(records[64..66], [2, 0]);
    assert!(records[..8].is_sorted() && records[7] > 200, "{:?}", &records[..8]);
    let colour = IngestJob { architecture: Some(cnn(3)), ..images.clone() };
    assert_eq!(ingest(&mut worker, colour).shards, [(2 * 194, 2)]);

    let mut pixels = [[0, 0, 8, 3], [0, 0, 0, 2], [0, 0, 0, 8], [0, 0, 0, 8]].concat();
    pixels.extend((0..128u8).collect::<Vec<u8>>());
    worker.put("images", &pixels);
    worker.put("labels", &[0, 0, 8, 1, 0, 0, 0, 2, 1, 7]);
    let idx = IngestJob {
        format: DataFormat::Idx,
        inputs: vec![file("images"), file("labels")],
        ..images
    };
    let outcome = ingest(&mut worker, idx.clone());
    assert_eq!(outcome.shards, [(66, 1)]);
    assert_eq!(reasons(&outcome), [("its label is not below the number of classes", 1)]);
    worker.put("images", &pixels[..100]);
    assert!(refused(&mut worker, idx.clone()).contains("ends before image 1 of 2"));
    let swapped = IngestJob { inputs: vec![file("labels"), file("images")], ..idx };
    refused(&mut worker, swapped);
}
