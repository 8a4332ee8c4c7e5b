-- A batch of 500 ids is 4 KB: kept in its row, it is written and deleted as one row instead of four.
alter table pgqueue.claims set (toast_tuple_target = 8160);
