//! Reports on months: one record and one page each, named by an entry of the log as the evidence of
//! drills is. What a record says is the affair of whoever made it.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    descriptor::newer,
    drill::EVIDENCE_BYTES_MAX,
    entry::{Action, Reported},
    handle::Repository,
    history::History,
    names,
    verify::{VerifyReport, is_finding},
};

/// The newest version of records that this program writes and reads.
pub const REPORT_FORMAT: u32 = 1;

/// What every record says.
#[derive(Debug, Deserialize)]
struct Head {
    format: u32,
    report: String,
    month: String,
}

impl Repository {
    /// A new id for a report.
    pub fn new_report(&self) -> String {
        self.new_id()
    }

    /// Keeps a report: record and page first, then the log entry that names both.
    /// **The entry is the commit point.**
    ///
    /// # Errors
    ///
    /// [`Exhausted`](ErrorKind::Exhausted) when either is longer than readers accept.
    pub async fn keep_report(
        &self,
        (report, month): (&str, &str),
        made_at: DateTime<Utc>,
        (record, page): (&[u8], &str),
    ) -> Result<Reported> {
        if record.len().max(page.len()) > EVIDENCE_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, code::CORRUPT_OBJECT, "keep a report")
                .with("bytes at most", EVIDENCE_BYTES_MAX));
        }
        let record_key = names::report(month, report, "record")?;
        let page_key = names::report(month, report, "page")?;
        let reported = Reported {
            report: report.to_owned(),
            month: month.to_owned(),
            made_at,
            record_hash: self.store_evidence(&record_key, record.to_vec()).await?,
            record: record_key.to_string(),
            page_hash: self.store_evidence(&page_key, page.as_bytes().to_vec()).await?,
            page: page_key.to_string(),
        };
        self.append(async |history| {
            let is_kept = history.reports().any(|known| known.report == reported.report);
            Ok((!is_kept).then(|| Action::Report(Box::new(reported.clone()))))
        })
        .await?;
        Ok(reported)
    }

    /// The record of a report.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is not what was written.
    pub async fn report_record(&self, report: &Reported) -> Result<Vec<u8>> {
        let record = self.evidence(&report.record, &report.record_hash).await?;
        let bad = |what: String| {
            Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read {}", report.record))
                .with("problem", what)
        };
        let head: Head = serde_json::from_slice(&record).map_err(|e| bad(e.to_string()))?;
        if head.format > REPORT_FORMAT {
            return Err(newer("a report on a month", head.format));
        }
        if (&head.report, &head.month) != (&report.report, &report.month) {
            return Err(bad("it is the record of another report".to_owned()));
        }
        Ok(record)
    }

    /// The page of a report.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is not what was written.
    pub async fn report_page(&self, report: &Reported) -> Result<Vec<u8>> {
        self.evidence(&report.page, &report.page_hash).await
    }

    /// Makes sure that every report is as it was written. Without the key, by its hashes alone.
    ///
    /// # Errors
    ///
    /// Only what keeps it from looking, such as an unreachable store; damage is in the report.
    pub async fn verify_reports(&self) -> Result<VerifyReport> {
        let (history, mut report) = (self.history().await?, VerifyReport::default());
        if !self.is_unlocked() {
            self.hash_reports(&history, &mut report).await?;
            return Ok(report);
        }
        for one in history.reports() {
            let (record, page) = (self.report_record(one).await, self.report_page(one).await);
            for (name, read) in [(&one.record, record), (&one.page, page)] {
                report.objects += 1;
                match read {
                    Ok(bytes) => report.bytes += bytes.len() as u64,
                    Err(error) if is_finding(&error) => report.add(name, &error, Vec::new()),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(report)
    }

    /// Compares reports with what the log says of them. Needs no key.
    pub(super) async fn hash_reports(
        &self,
        history: &History,
        report: &mut VerifyReport,
    ) -> Result<()> {
        for one in history.reports() {
            let objects = [(&one.record, &one.record_hash), (&one.page, &one.page_hash)];
            self.hash_evidence(objects, report).await?;
        }
        Ok(())
    }
}
