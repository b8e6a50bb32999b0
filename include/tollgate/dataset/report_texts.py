"""The words of the report page, each in Korean and in English."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """The same in both languages."""

    ko: str
    en: str


def words(key: str) -> Words:
    """The words of a key; a key without words (a reason or a check that is new) stands for itself, made readable."""
    if key in TEXTS:
        return TEXTS[key]
    plain = key.replace("_", " ")
    return Words(plain, plain)


def check_words(name: str, column: str) -> Words:
    """The words of a check of the contract: in English its own name, in Korean those of the column that it judges."""
    korean = TEXTS.get(f"check:{column}")
    return Words(korean.ko if korean else name, name)


TEXTS = {
    name: Words(*both)
    for name, both in {
        "title": ("데이터셋 보고서", "Dataset report"),
        "language": ("언어", "Language"),
        "written": ("작성", "Written"),
        "content_hash": ("내용 해시", "Content hash"),
        "parent": ("이전 버전", "Version before"),
        "code_version": ("Tollgate 버전", "Tollgate version"),
        "none": ("없음", "none"),
        "uncategorised": ("(분류 없음)", "(no category)"),
        "others": ("그 밖", "others"),
        "rows_in": ("들어온 행", "Rows in"),
        "rows_kept": ("남은 행", "Rows kept"),
        "rows_out": ("빠진 행", "Rows taken out"),
        "pieces_masked": ("가린 개인정보", "Personal data masked"),
        "mean_quality": ("평균 품질", "Mean quality"),
        "contract_met": ("계약 검사 통과", "Contract met"),
        "contract_not_met": ("계약 검사 실패", "Contract not met"),
        "road": ("게이트별 처리 결과", "What each gate took"),
        "road_note": (
            "들어온 행 = 남은 행 + 빠진 행. 모든 게이트에서 행 수가 맞는지 확인했습니다.",
            "Rows in = rows kept + rows taken out; every gate's account was checked.",
        ),
        "gate": ("게이트", "Gate"),
        "kept": ("남음", "Kept"),
        "taken": ("빠짐", "Taken out"),
        "why": ("이유", "Reason"),
        "nothing_taken": ("빠진 행 없음", "nothing taken out"),
        "ingest": ("읽기", "Read"),
        "personal_data": ("개인정보", "Personal data"),
        "duplicates": ("중복", "Duplicates"),
        "quality": ("품질, 독성", "Quality, toxicity"),
        "toxicity": ("독성", "Toxicity"),
        "contamination": ("시험 데이터 오염", "Contamination"),
        "split": ("분할", "Split"),
        "contract": ("계약 검사", "Contract"),
        "quarantined": ("읽을 수 없어 격리", "unreadable, in quarantine"),
        "exact_duplicate": ("완전 중복", "exact duplicate"),
        "near_duplicate": ("유사 중복", "near-duplicate"),
        "earlier_duplicate": ("이전 버전과 중복", "repeats an earlier version"),
        "low_quality": ("낮은 품질", "low quality"),
        "toxic": ("독성", "toxic"),
        "biased": ("편향", "biased"),
        "leak": ("시험·검증으로의 누출", "leak into validation or test"),
        "resident_number": ("주민등록번호", "resident number"),
        "foreigner_number": ("외국인등록번호", "foreigner number"),
        "card": ("카드번호", "card"),
        "phone": ("전화번호", "telephone"),
        "email": ("이메일", "e-mail"),
        "name": ("이름", "name"),
        "bank_account": ("계좌번호", "bank account"),
        "business_number": ("사업자등록번호", "business number"),
        "corporate_number": ("법인등록번호", "corporate number"),
        "passport": ("여권번호", "passport"),
        "driver_licence": ("운전면허번호", "driver's licence"),
        "vehicle_plate": ("차량번호", "vehicle plate"),
        "address": ("주소", "address"),
        "ip_address": ("IP 주소", "IP address"),
        "sources": ("원본 파일", "Source files"),
        "file": ("파일", "File"),
        "size": ("크기", "Size"),
        "broken_rows": ("읽을 수 없는 행", "Rows that could not be read"),
        "broken_rows_note": ("전체 목록: quarantine.jsonl", "All of them: quarantine.jsonl"),
        "line": ("줄", "Line"),
        "field": ("필드", "Field"),
        "whole_row": ("행 전체", "whole row"),
        "kind": ("종류", "Kind"),
        "found": ("찾은 수", "Found"),
        "example": ("예 (가려짐)", "Example (masked)"),
        "rows_with_personal_data": ("개인정보가 있던 행", "Rows that held personal data"),
        "no_personal_data": ("개인정보를 찾지 못했습니다.", "No personal data was found."),
        "clusters": ("유사 중복 묶음", "Near-duplicate clusters"),
        "largest_cluster": ("가장 큰 묶음 (행)", "Largest cluster (rows)"),
        "conflicting_questions": ("답이 서로 다른 같은 질문", "Same question, different answers"),
        "cluster_samples": ("묶음의 예", "Samples of clusters"),
        "cluster_note": (
            "답이 같고 질문이 거의 같은 행 중에서 품질이 가장 좋은 행만 남겼습니다. "
            "모든 중복은 실제 자카드 유사도로 확인했습니다.",
            "Of nearly equal questions with the same answer the best row stays. Every duplicate was verified by its "
            "exact Jaccard similarity.",
        ),
        "kept_row": ("남긴 행", "kept"),
        "similarity": ("유사도", "similarity"),
        "earlier_samples": ("이전 버전과 겹치는 행의 예", "Samples of rows that repeat an earlier version"),
        "conflict_samples": ("답이 서로 다른 질문의 예", "Samples of questions with different answers"),
        "conflict_note": (
            "이런 행은 빼지 않고 모두 남겼습니다. 어느 답이 맞는지 확인하십시오.",
            "None of these rows was taken out. Decide which answer is right.",
        ),
        "no_duplicates": ("중복을 찾지 못했습니다.", "No duplicates were found."),
        "histogram": ("품질 점수 분포", "Quality scores"),
        "score_note": (
            "중복을 뺀 모든 행. 선은 통과 기준입니다.",
            "All rows left after duplicates. The line is the threshold.",
        ),
        "toxicity_histogram": ("독성 점수 분포", "Toxicity scores"),
        "quality_parts": ("항목별 평균", "Mean of each part"),
        "question_length": ("질문 길이", "question length"),
        "answer_length": ("답변 길이", "answer length"),
        "repetition": ("반복 없음", "no repetition"),
        "letters": ("글자 비율", "share of letters"),
        "hangul": ("한글 비율", "share of Hangul"),
        "intact": ("깨진 글자 없음", "no broken characters"),
        "ending": ("문장 끝맺음", "sentence endings"),
        "diversity": ("어휘 다양성", "diversity"),
        "relevance": ("질문과의 관련", "relevance to the question"),
        "refusal": ("거절 아님", "no refusal"),
        "length": ("길이", "length"),
        "taken_samples": ("빠진 행의 예", "Samples of what was taken out"),
        "score": ("점수", "Score"),
        "weak_parts": ("약한 항목", "Weak parts"),
        "text": ("본문 (가려짐)", "Text (masked)"),
        "not_shown": ("표시하지 않음", "not shown"),
        "test_set": ("시험 데이터", "Test set"),
        "overlap": ("겹침", "Overlap"),
        "ngram": ("n-그램", "n-gram"),
        "no_test_sets": (
            "비교할 시험 데이터를 설정하지 않았습니다 (contamination_tests).",
            "The settings name no test set to compare with (contamination_tests).",
        ),
        "no_contamination": ("시험 데이터와 겹치는 행이 없습니다.", "No row overlaps a test set."),
        "contents": ("버전의 내용", "What is in the version"),
        "train": ("학습", "training"),
        "validation": ("검증", "validation"),
        "test": ("시험", "test"),
        "part": ("구분", "Part"),
        "rows": ("행", "Rows"),
        "categories": ("분류별 행 수", "Rows by category"),
        "category": ("분류", "Category"),
        "row_sources": ("출처별 행 수", "Rows by source"),
        "turns": ("사용자 발화 수", "User turns a row"),
        "lengths": ("길이 분포", "Lengths"),
        "question_characters": ("질문의 글자 수", "Characters of the question"),
        "answer_characters": ("답변의 글자 수", "Characters of the answer"),
        "tokens": ("행의 토큰 수", "Tokens of a row"),
        "tokens_note": ("기본 모델의 토크나이저로 센 행 수", "Rows counted with the base model's tokenizer"),
        "no_tokens": (
            "기본 모델의 토크나이저가 없어 토큰 수를 세지 않았습니다.",
            "Tokens were not counted: there is no tokenizer of a base model.",
        ),
        "median": ("중앙값", "median"),
        "most": ("최대", "most"),
        "beyond": ("마지막 막대는 그 이상을 포함", "the last bar holds all beyond"),
        "check:rows": ("행 수가 충분함", ""),
        "check:train_rows": ("학습 행이 있음", ""),
        "check:validation_rows": ("검증 행이 있음", ""),
        "check:test_rows": ("시험 행이 있음", ""),
        "check:duplicate_share": ("완전 중복이 거의 없음", ""),
        "check:clusters_across_parts": ("유사 중복 묶음이 나뉘지 않음", ""),
        "check:broken_share": ("원본에 깨진 행이 적음", ""),
        "check:residual_personal_data": ("남은 개인정보가 없음", ""),
        "check:rows_out_of_turn": ("사용자와 상담사가 번갈아 말하고 상담사로 끝남", ""),
        "check:rows_without_part": ("모든 행이 한 구분에 속함", ""),
        "check:rows_with_an_empty_side": ("빈 질문과 빈 답변이 없음", ""),
        "check:rows_with_long_question": ("질문 길이가 한도 안에 있음", ""),
        "check:rows_with_long_answer": ("답변 길이가 한도 안에 있음", ""),
        "check:rows_of_low_quality": ("품질이 기준 이상", ""),
        "check:rows_too_toxic": ("독성이 기준 이하", ""),
        "check:rows_too_biased": ("편향이 기준 이하", ""),
        "check:contaminated_rows": ("시험 데이터와 겹치는 학습 행이 없음", ""),
        "check:category_drift": ("분류 구성이 이전 버전과 비슷함", ""),
        "contract_note": (
            "Great Expectations로 검사했습니다. 전체 기록: data_docs/index.html",
            "Checked by Great Expectations. Its full record: data_docs/index.html",
        ),
        "check": ("검사", "Check"),
        "observed": ("실제", "Observed"),
        "result": ("결과", "Result"),
        "passed": ("통과", "passed"),
        "failed": ("실패", "failed"),
        "settings": ("게이트 설정", "Gate settings"),
        "setting": ("설정", "Setting"),
        "value": ("값", "Value"),
        "further": ("그 밖의 결과", "Further findings"),
        "data": ("데이터", "Data"),
        "footer": (
            "이 쪽은 외부 자료를 읽지 않습니다. 개인정보는 가린 채로만 보입니다. 같은 내용의 JSON: report.json",
            "This page loads nothing from outside and shows personal data only masked. The same as JSON: report.json",
        ),
    }.items()
}
