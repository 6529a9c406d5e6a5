//! Headings in English and Korean. Names of scores, labels and cases are never translated.

/// Language of headings and explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Korean.
    Korean,
}

impl std::str::FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "en" => Ok(Self::English),
            "ko" => Ok(Self::Korean),
            _ => Err(format!("{text:?}: expected en or ko")),
        }
    }
}

impl Language {
    /// The code of the language, as HTML names it.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// A heading in this language; `english` is its key in [`WORDS`].
    ///
    /// English text without an entry is shown as it is; a test holds that every text has one.
    pub fn word(self, english: &'static str) -> &'static str {
        match self {
            Self::English => english,
            Self::Korean => WORDS
                .iter()
                .find(|(key, _)| *key == english)
                .map_or(english, |(_, korean)| korean),
        }
    }
}

/// Every heading and sentence, English then Korean.
const WORDS: &[(&str, &str)] = &[
    ("Summary", "요약"),
    ("Patients", "환자"),
    ("Slices", "슬라이스"),
    ("Confusion", "혼동 행렬"),
    ("Distribution", "분포"),
    ("Worst", "최악 사례"),
    ("Compare", "비교"),
    ("Charts", "차트"),
    ("Failures", "실패"),
    ("Run", "실행 정보"),
    ("Segmentation report", "분할 평가 보고서"),
    ("verdict", "판정"),
    ("PASS", "합격"),
    ("FAIL", "불합격"),
    ("no checks were asked for", "검사 조건 없음"),
    ("cases scored", "평가된 사례"),
    ("cases not scored", "평가되지 않은 사례"),
    ("missed structures", "놓친 구조"),
    ("spurious structures", "잘못 만든 구조"),
    ("checks", "검사"),
    ("check", "검사"),
    ("result", "결과"),
    ("value", "값"),
    ("text", "설명"),
    ("holds", "통과"),
    ("fails", "실패"),
    ("model", "모델"),
    ("case", "사례"),
    ("label", "라벨"),
    ("all labels", "모든 라벨"),
    ("status", "상태"),
    ("ok", "정상"),
    ("missed", "놓침"),
    ("spurious", "잘못 생성"),
    ("absent", "없음"),
    ("mean", "평균"),
    ("CI95 low", "CI95 하한"),
    ("CI95 high", "CI95 상한"),
    ("pooled Dice", "통합 Dice"),
    (
        "mean and 95 % bootstrap interval",
        "평균과 95 % 부트스트랩 구간",
    ),
    ("mean Dice (95 % interval)", "평균 Dice (95 % 구간)"),
    (
        "mean HD95 in mm (95 % interval)",
        "평균 HD95, mm (95 % 구간)",
    ),
    ("definitions", "정의"),
    ("TP", "TP"),
    ("FP", "FP"),
    ("FN", "FN"),
    ("icon", "아이콘"),
    ("worst slice", "최악 슬라이스"),
    ("Dice by slice", "슬라이스별 Dice"),
    ("picture", "그림"),
    ("why there is no number", "값이 없는 이유"),
    ("slice", "슬라이스"),
    ("z from the first slice (mm)", "첫 슬라이스부터 z (mm)"),
    ("reference voxels", "기준 복셀"),
    ("predicted voxels", "예측 복셀"),
    ("reference", "기준"),
    ("prediction", "예측"),
    ("voxels", "복셀"),
    ("share of the reference", "기준 대비 비율"),
    ("recall", "재현율"),
    ("precision", "정밀도"),
    ("total", "합계"),
    ("score", "점수"),
    ("n", "n"),
    ("left out", "제외"),
    ("sd", "표준편차"),
    ("min", "최소"),
    ("q1", "1사분위"),
    ("median", "중앙값"),
    ("q3", "3사분위"),
    ("max", "최대"),
    ("for the chart", "차트용"),
    ("q1 to median", "1사분위-중앙값"),
    ("median to q3", "중앙값-3사분위"),
    ("min to q1", "최소-1사분위"),
    ("q3 to max", "3사분위-최대"),
    (
        "box: quartiles; whiskers: extremes",
        "상자: 사분위; 수염: 최소와 최대",
    ),
    ("cases by Dice", "Dice별 사례 수"),
    ("place", "순위"),
    ("no picture", "그림 없음"),
    (
        "blue: reference; orange: prediction",
        "파랑: 기준; 주황: 예측",
    ),
    ("difference", "차이"),
    ("mean difference", "평균 차이"),
    ("p", "p"),
    ("p (Holm)", "p (Holm)"),
    ("win", "승"),
    ("tie", "무"),
    ("loss", "패"),
    ("first", "첫째"),
    ("second", "둘째"),
    ("trend", "추세"),
    ("Dice of both models", "두 모델의 Dice"),
    ("ranking by Dice", "Dice 순위"),
    ("rank of the mean", "평균의 순위"),
    ("mean of the ranks", "순위의 평균"),
    ("kind", "종류"),
    ("reason", "이유"),
    ("what to do", "해결 방법"),
    ("all cases were scored", "모든 사례가 평가됨"),
    ("setting", "설정"),
    ("grid of the cases", "사례의 격자"),
    ("shape x, y, z", "크기 x, y, z"),
    ("spacing x, y, z (mm)", "간격 x, y, z (mm)"),
    ("results file SHA-256", "결과 파일 SHA-256"),
    ("scored by medseg", "평가한 medseg 버전"),
    ("definition of surface distances", "표면 거리 정의"),
    ("NSD tolerances (mm)", "NSD 허용 오차 (mm)"),
    ("scores without a number", "값이 없는 점수"),
    ("seed of the bootstrap", "부트스트랩 시드"),
    ("labels and regions", "라벨과 영역"),
    ("renumbered labels", "바꾼 라벨 번호"),
    ("ignored label", "무시한 라벨"),
    ("grid tolerance (mm)", "격자 허용 오차 (mm)"),
    ("lesion rules", "병변 규칙"),
    ("scored as tubes", "관으로 평가한 라벨"),
    ("intensities that count", "계산에 쓰인 밝기"),
    ("resampled cases", "재표본화한 사례"),
    ("grouped by", "묶음 기준"),
    ("shard", "부분"),
    ("none", "없음"),
    ("all that occur", "나타나는 모든 라벨"),
    (
        "Research use only; not a medical device.",
        "연구용이며 의료기기가 아닙니다.",
    ),
    ("filter", "필터"),
    ("all", "전체"),
    ("shown rows", "표시된 행"),
    ("worst cases", "최악 사례"),
    ("per-case scores", "사례별 점수"),
    ("light and dark", "밝게/어둡게"),
    ("baseline", "기준선"),
    ("Not scored", "평가되지 않음"),
    ("click a heading to sort", "제목을 눌러 정렬"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every literal given to `word` in this module's sources has a Korean entry.
    #[test]
    fn every_heading_is_translated() {
        let sources = [
            include_str!("workbook/mod.rs"),
            include_str!("workbook/summary.rs"),
            include_str!("workbook/patients.rs"),
            include_str!("workbook/slices.rs"),
            include_str!("workbook/confusion.rs"),
            include_str!("workbook/distribution.rs"),
            include_str!("workbook/worst.rs"),
            include_str!("workbook/compare.rs"),
            include_str!("workbook/failures.rs"),
            include_str!("workbook/run.rs"),
            include_str!("html/mod.rs"),
            include_str!("html/sections.rs"),
            include_str!("html/tables.rs"),
            include_str!("source.rs"),
            include_str!("markdown.rs"),
        ];
        let mut found = 0;
        for source in sources {
            for part in source.split("word(\"").skip(1) {
                let key = part.split('"').next().unwrap();
                found += 1;
                assert!(
                    WORDS.iter().any(|(english, _)| *english == key),
                    "no Korean for {key:?}"
                );
            }
        }
        assert!(found > 40, "{found}");
    }
}
